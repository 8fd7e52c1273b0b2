"""What is usual: in how many texts each feature fires, and how large the watched columns get, on texts that are clean.

Tokens of one text depend on each other, so that a text is the unit: a feature fired in it, or it did not. What tests
need are numbers of texts, not shares: they have to know how well the share is known.

Shape legend: F features, W watched columns, L levels of a column, A features that fired in a text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.records import Observation

LEVELS = (0.5, 0.9, 0.99)  # shares of the reference texts whose values lie below the cuts of a column


@dataclass(frozen=True, eq=False)
class FiringProfile:
    """How often the features of one autoencoder fire.

    Attributes:
        num_texts: that were read.
        num_tokens: of them.
        texts_F: in how many texts each fired.
        tokens_F: on how many tokens each fired.
    """

    num_texts: int
    num_tokens: int
    texts_F: NDArray[np.int64]
    tokens_F: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ColumnProfile:
    """How large watched columns get.

    Cuts are quantiles of every other text; above them are counted those of the rest, so that what a cut was chosen by
    does not judge it.

    Attributes:
        names: of the columns.
        num_texts: that were counted.
        cut_WL: values at the levels.
        above_WL: in how many of the counted texts a column was above its cut.
    """

    names: tuple[str, ...]
    num_texts: int
    cut_WL: NDArray[np.float32]
    above_WL: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Profile:
    """What is usual.

    Attributes:
        fired: by URI of the autoencoder.
        columns: of the watch list; None: none are known.
        about: what it was measured on, for people.
    """

    fired: Mapping[str, FiringProfile] = field(default_factory=dict)
    columns: ColumnProfile | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def gathered(
        cls,
        observations: Iterable[Observation],
        num_features: Mapping[str, int],
        names: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> Self:
        """What is usual in what was seen: of a reference corpus, or of recorded traffic.

        Args:
            observations: those of one exchange one after the other; together they count as one text.
            num_features: of each autoencoder, by URI.
            names: of the watched columns, in their order; none: they are left out.
            about: what it was measured on.

        Raises:
            InputError: there are none, or a feature is beyond its autoencoder's.
        """
        raise NotImplementedError
