"""What makes vectors of texts, so that texts of like meaning lie near each other.

Shape legend: N texts, D width of the vectors.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Embedder(Protocol):
    """Makes a vector of each text.

    Attributes:
        name: how people call it.
        identity: changes whenever the vectors would; names the files that hold vectors.
        centred: whether vectors are compared after the mean of all is taken off. Hidden states of a language model
            share a large common part, which says nothing (Mu and Viswanath 2018).
        at_once: texts that are best embedded together.
    """

    name: str
    identity: str
    centred: bool
    at_once: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts [N, D]; of no particular length, and finite.

        Raises:
            InputError: there is no answer from where they are made.
        """
        ...
