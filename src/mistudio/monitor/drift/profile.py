"""What is usual: in how many texts each feature fires, and how large the watched columns get, on texts that are clean.

Tokens of one text depend on each other, so that a text is the unit: a feature fired in it, or it did not. What tests
need are numbers of texts, not shares: they have to know how well the share is known.

Shape legend: F features, W watched columns, L levels of a column, A features that fired in a text.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mistudio.errors import InputError
from mistudio.monitor.drift.repeats import RecentTexts, rare_keys
from mistudio.monitor.drift.texts import FiredIn, TextSeen, texts_of
from mistudio.monitor.records import Observation

LEVELS = (0.5, 0.9, 0.99)  # shares of the reference texts whose values lie below the cuts of a column
_LIKENESS, _RECENT = 0.8, 64  # of texts that repeat one of the last: as the tests have it by default
FEWEST_TEXTS = 200  # for the quantiles of columns


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
        identities: of the columns, as :attr:`~mistudio.monitor.watch.columns.Column.identity` tells it.
        num_texts: that were counted.
        cut_WL: values at the levels.
        above_WL: in how many of the counted texts a column was above its cut.
    """

    names: tuple[str, ...]
    identities: tuple[str, ...]
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
        identities: Mapping[str, str] | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Self:
        """What is usual in what was seen: of a reference corpus, or of recorded traffic.

        Args:
            observations: those of one exchange one after the other; together they count as one text. Texts that
                repeat one of the last are left out, as the tests leave them out.
            num_features: of each autoencoder, by URI.
            identities: of the watched columns by name, in their order; none: they are left out.
            about: what it was measured on.

        Raises:
            InputError: there are none, or a feature is beyond its autoencoder's.
        """
        gathering, recent = Gathering(num_features, identities), RecentTexts(_RECENT, _LIKENESS)
        for text in texts_of(observations):
            if not recent.is_repeat(rare_keys(text, gathering.known)):
                gathering.add(text)
        return cls(gathering.fired(), gathering.columns(), dict(about or {}))

    @cached_property
    def digest(self) -> str:
        """Of all its numbers."""
        digest = hashlib.sha256()
        for uri, own in sorted(self.fired.items()):
            digest.update(f"{uri} {own.num_texts} {own.num_tokens}".encode())
            digest.update(own.texts_F.tobytes() + own.tokens_F.tobytes())
        if self.columns is not None:
            digest.update(
                " ".join([*self.columns.names, *self.columns.identities, str(self.columns.num_texts)]).encode()
            )
            digest.update(self.columns.cut_WL.tobytes() + self.columns.above_WL.tobytes())
        return digest.hexdigest()


class Gathering:
    """Counts texts one after the other.

    Args:
        num_features: of each autoencoder, by URI.
        identities: of the watched columns, by name.
    """

    def __init__(self, num_features: Mapping[str, int], identities: Mapping[str, str] | None = None) -> None:
        self._texts = {uri: np.zeros(count, dtype=np.int64) for uri, count in num_features.items()}
        self._tokens = {uri: np.zeros(count, dtype=np.int64) for uri, count in num_features.items()}
        self._num_texts = dict.fromkeys(num_features, 0)
        self._num_tokens = dict.fromkeys(num_features, 0)
        self._identities, self._values = dict(identities or {}), list[NDArray[np.float32]]()

    def add(self, text: TextSeen) -> None:
        """Count a text.

        Raises:
            InputError: a feature is beyond its autoencoder's, or there are other columns than named.
        """
        for uri, fired in text.fired.items():
            if uri in self._texts:
                self._add_fired(uri, text, fired)
        if not self._identities:
            return
        if len(text.max_W) != len(self._identities):
            message = (
                f"{len(text.max_W)} columns were read, and {len(self._identities)} are named: give the watch list."
            )
            raise InputError(message)
        self._values.append(text.max_W)

    def known(self, uri: str) -> tuple[NDArray[np.int64], int] | None:
        """In how many texts each feature fired so far, and in how many texts that is."""
        return (self._texts[uri], self._num_texts[uri]) if uri in self._texts else None

    def _add_fired(self, uri: str, text: TextSeen, fired: FiredIn) -> None:
        num_features = len(self._texts[uri])
        if len(fired.feature_A) and int(fired.feature_A[-1]) >= num_features:
            message = f"Feature {fired.feature_A[-1]} fired, and {uri} has {num_features:,}: it is of another one."
            raise InputError(message)
        self._texts[uri][fired.feature_A] += 1
        self._tokens[uri][fired.feature_A] += fired.count_A
        self._num_texts[uri] += 1
        self._num_tokens[uri] += text.num_tokens

    def fired(self) -> dict[str, FiringProfile]:
        """What was counted of features.

        Raises:
            InputError: no text was encoded in full.
        """
        empty = [uri for uri, count in self._num_texts.items() if not count]
        if empty:
            message = f"No text was read through {', '.join(empty)} in full: there is nothing to compare with."
            raise InputError(message)
        return {
            uri: FiringProfile(count, self._num_tokens[uri], self._texts[uri], self._tokens[uri])
            for uri, count in self._num_texts.items()
        }

    def columns(self) -> ColumnProfile | None:
        """What was counted of watched columns; None where none are named.

        Raises:
            InputError: there are too few texts.
        """
        if not self._identities:
            return None
        if len(self._values) < FEWEST_TEXTS:
            message = f"{len(self._values)} texts are too few for quantiles of columns: give {FEWEST_TEXTS} or more."
            raise InputError(message)
        value_SW = np.stack(self._values)
        cutting_SW, counted_SW = value_SW[::2], value_SW[1::2]
        with np.errstate(all="ignore"):
            ranked_SW = np.sort(np.where(np.isnan(cutting_SW), -np.inf, cutting_SW), axis=0)
        place_L = np.ceil(np.array(LEVELS) * len(ranked_SW)).astype(np.int64) - 1
        cut_WL = np.ascontiguousarray(ranked_SW[place_L].T)
        above_WL = (counted_SW[:, :, None] > cut_WL).sum(axis=0)
        return ColumnProfile(
            tuple(self._identities), tuple(self._identities.values()), len(counted_SW), cut_WL, above_WL
        )
