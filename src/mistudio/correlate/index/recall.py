"""How many of the nearest features an index finds, against brute force over the same decoder.

A feature counts as found where its cosine is at least that of the last of the nearest: which of several equal ones is
given does not matter.

Shape legend: D width of the decoder's rows, Q queries, N candidates.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.index.exact_index import ExactIndex
from mistudio.correlate.index.faiss_index import RECALL_AT
from mistudio.correlate.index.kinds import candidate_cosines, shortlist
from mistudio.correlate.index.nearest import DirectionIndex, Vectors

if TYPE_CHECKING:
    import faiss

_EQUAL = 2e-6  # two sums of the same products in float32 are no farther apart


class Known(NamedTuple):
    """Queries of one kind, and the cosine of the last of the nearest features of each."""

    unit_QD: Vectors
    least_Q: Vectors

    def halves(self) -> "tuple[Known, Known]":
        """Those to choose settings by, and those to report."""
        return Known(self.unit_QD[::2], self.least_Q[::2]), Known(self.unit_QD[1::2], self.least_Q[1::2])


def known(exact: ExactIndex, queries: Mapping[str, Vectors]) -> dict[str, Known]:
    """The queries with what brute force says of them."""
    count = min(RECALL_AT, exact.num_features)
    return {kind: Known(unit_QD, exact.search(unit_QD, count).cosine_QK[:, -1]) for kind, unit_QD in queries.items()}


def recall(index: DirectionIndex, queries: Known) -> float:
    """The share of the nearest features that an index finds."""
    found = index.search(queries.unit_QD, min(RECALL_AT, index.num_features))
    return float((found.cosine_QK >= queries.least_Q[:, None] - _EQUAL).mean())


def recall_by_candidates(index: "faiss.Index", exact: ExactIndex, queries: Known, most: int) -> NDArray[np.float64]:
    """The share of the nearest features that are among the first 1, 2, ... ``most`` candidates [N]."""
    nearest = min(RECALL_AT, exact.num_features)
    found_N = np.zeros(most)
    for unit_D, candidate_N, least in zip(
        queries.unit_QD, shortlist(index, queries.unit_QD, most), queries.least_Q, strict=True
    ):
        is_found_N = np.zeros(most, dtype=np.bool_)
        is_found_N[candidate_N >= 0] = candidate_cosines(exact, unit_D, candidate_N[candidate_N >= 0]) >= least - _EQUAL
        found_N += np.minimum(is_found_N.cumsum(), nearest)
    recall_N: NDArray[np.float64] = found_N / (nearest * len(queries.unit_QD))
    return recall_N
