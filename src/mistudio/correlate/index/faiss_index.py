"""Approximate search with exact figures: candidates by codes or a graph, their cosines from the decoder itself.

Shape legend: D width of the decoder's rows, Q queries, K features found for a query, N candidates.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.index.exact_index import ExactIndex
from mistudio.correlate.index.kinds import candidate_cosines, set_breadth, shortlist
from mistudio.correlate.index.nearest import Nearest, Vectors, features_asked, joined, largest, unit_queries

if TYPE_CHECKING:
    import faiss

RECALL_AT = 10  # features that candidates and recall are measured for
_EXACT_FROM = 4  # where one in so many features would be a candidate, all are


class FaissIndex:
    """An index whose candidates are compared exactly.

    Args:
        index: what gives candidates.
        exact: over the same decoder.
        candidates: so many of them find the nearest 10; for more features there are more in proportion.
        breadth: how much of the index a search looks at.
    """

    def __init__(self, index: "faiss.Index", exact: ExactIndex, candidates: int, breadth: int) -> None:
        self._index, self._exact, self._candidates, self._breadth = index, exact, candidates, breadth
        set_breadth(index, breadth)

    @property
    def num_features(self) -> int:
        """Decoder directions that are searched."""
        return self._exact.num_features

    @property
    def width(self) -> int:
        """Components of a vector."""
        return self._exact.width

    def search(self, vector_QD: NDArray[np.floating], count: int) -> Nearest:
        """The features with the largest cosines to each vector; see :meth:`DirectionIndex.search`.

        As many as a good part of all are searched for by brute force, and so is a query for which the index has fewer
        candidates than features were asked for.
        """
        unit_QD = unit_queries(vector_QD, self.width)
        count = features_asked(count, self.num_features)
        candidates = self._candidates * -(-count // RECALL_AT)
        if candidates * _EXACT_FROM >= self.num_features:
            return self._exact.search(unit_QD, count)
        return joined(
            [self._one(unit_QD[query : query + 1], candidates, count) for query in range(len(unit_QD))], count
        )

    def _one(self, unit_1D: Vectors, candidates: int, count: int) -> Nearest:
        found_N = shortlist(self._index, unit_1D, candidates)[0]
        feature_N = np.sort(found_N[(found_N >= 0) & (found_N < self.num_features)])  # in the order of the file
        if len(feature_N) < count:
            return self._exact.search(unit_1D, count)
        feature_K, cosine_K = largest(feature_N, candidate_cosines(self._exact, unit_1D[0], feature_N), count)
        return Nearest(feature_K[None], cosine_K[None])
