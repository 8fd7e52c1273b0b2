"""Which decoder directions point where a vector does: the interface of every index, and what all of them check.

Features are ranked by the cosine between the vector and their decoder rows, the largest first. A row that points the
other way is as far as can be: who looks for opposites asks for the vector with its sign changed.

Shape legend: F features, D width of the decoder's rows, Q queries, K features found for a query, N candidates.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mistudio.errors import InputError
from mistudio.plain_text import shortened

Vectors = NDArray[np.float32]


class Nearest(NamedTuple):
    """The features whose directions are nearest to each query, best first; of equal ones the smaller number first."""

    feature_QK: NDArray[np.int64]
    cosine_QK: NDArray[np.float32]


class DirectionIndex(Protocol):
    """What finds the decoder directions that are nearest to a vector; any number of threads may use it at once."""

    @property
    def num_features(self) -> int:
        """Decoder directions that are searched."""
        ...

    @property
    def width(self) -> int:
        """Components of a vector."""
        ...

    def search(self, vector_QD: NDArray[np.floating], count: int) -> Nearest:
        """The ``count`` features with the largest cosines to each vector, or all where there are fewer.

        The cosines are exact, whatever the index: an approximate one may miss a feature, and never says a wrong cosine.
        A feature whose decoder row is zero has no direction; its cosine is 0.

        Args:
            vector_QD: the queries, of any length.
            count: features to find for each, at least 1.

        Raises:
            InputError: count is below 1, or a vector has another width, is zero or not finite.
        """
        ...


def unit_queries(vector_QD: NDArray[np.floating], width: int) -> Vectors:
    """The vectors, each made one long, in float32.

    Raises:
        InputError: they have another width, or one is zero or not finite.
    """
    given_QD = np.asarray(vector_QD)
    if given_QD.ndim != 2 or given_QD.shape[1] != width:
        message = f"The vectors have shape {list(given_QD.shape)}: give [queries, {width}], as the decoder's rows are."
        raise InputError(message)
    is_finite_Q = np.asarray(np.isfinite(given_QD).all(axis=1))
    if not is_finite_Q.all():
        message = f"Vector {_first(~is_finite_Q)} holds a value that is no finite number."
        raise InputError(message)
    wide_QD = given_QD.astype(np.float64)
    largest_Q = np.abs(wide_QD).max(axis=1, initial=0)
    if not largest_Q.all():
        message = f"Vector {_first(largest_Q == 0)} is zero: it points nowhere, and no direction is near it."
        raise InputError(message)
    wide_QD /= largest_Q[:, None]  # squares of what is left neither overflow nor vanish
    return np.ascontiguousarray(wide_QD / np.linalg.norm(wide_QD, axis=1, keepdims=True), dtype=np.float32)


def features_asked(count: int, num_features: int) -> int:
    """How many features to find: as many as were asked for, or all.

    Raises:
        InputError: none were asked for.
    """
    if count < 1:
        message = f"count {shortened(count)} is out of range: ask for at least 1 feature."
        raise InputError(message)
    return min(count, num_features)


def largest(feature_N: NDArray[np.int64], cosine_N: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
    """The features with the largest cosines, best first; of equal ones the smaller number first."""
    if len(cosine_N) > count:
        least = np.partition(cosine_N, -count)[-count]
        kept = np.flatnonzero(cosine_N >= least)  # with all that equal the last, so that numbers decide between them
        feature_N, cosine_N = feature_N[kept], cosine_N[kept]
    order = np.lexsort((feature_N, -cosine_N))[:count]
    return feature_N[order], cosine_N[order]


def joined(parts: list[Nearest], count: int) -> Nearest:
    """What was found for all queries, of what was found for blocks of them."""
    if not parts:
        return Nearest(np.empty((0, count), dtype=np.int64), np.empty((0, count), dtype=np.float32))
    return Nearest(
        np.concatenate([each.feature_QK for each in parts]), np.concatenate([each.cosine_QK for each in parts])
    )


def _first(is_so_Q: NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(is_so_Q)[0])
