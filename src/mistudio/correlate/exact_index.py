"""Brute force over a decoder: the reference of every other index, and what serves a small decoder best.

Shape legend: F features, D width of the decoder's rows, Q queries, R rows of a block, K features found for a query,
N features whose cosines are asked for.
"""

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.decoder_rows import scales
from mistudio.correlate.nearest import Nearest, Vectors, features_asked, joined, largest, unit_queries

_BLOCK_BYTES = 1 << 23  # of decoder rows, and of cosines, that are worked on at once


class ExactIndex:
    """Brute force over a decoder, block by block.

    Args:
        decoder_FD: float32, mapped or in memory; it is read and not copied.
        scale_F: one divided by the length of each row, where that is known; 0 for a row that is zero.
    """

    def __init__(self, decoder_FD: Vectors, scale_F: Vectors | None = None) -> None:
        self._decoder_FD = decoder_FD
        self._scale_F = scales(decoder_FD) if scale_F is None else scale_F
        self._rows = max(_BLOCK_BYTES // (4 * decoder_FD.shape[1]), 1)

    @property
    def num_features(self) -> int:
        """Decoder directions that are searched."""
        return len(self._decoder_FD)

    @property
    def width(self) -> int:
        """Components of a vector."""
        return int(self._decoder_FD.shape[1])

    def search(self, vector_QD: NDArray[np.floating], count: int) -> Nearest:
        """The features with the largest cosines to each vector; see :meth:`DirectionIndex.search`."""
        unit_QD = unit_queries(vector_QD, self.width)
        count = features_asked(count, self.num_features)
        at_once = max(_BLOCK_BYTES // (4 * (self._rows + count)), 1)
        parts = [self._search(unit_QD[start : start + at_once], count) for start in range(0, len(unit_QD), at_once)]
        return joined(parts, count)

    def cosines(self, unit_D: Vectors, feature_N: NDArray[np.int64]) -> Vectors:
        """The cosines of some features with one vector of length one.

        Without BLAS, which would share so small a product out among threads that others use.
        """
        product_N = np.einsum("nd,d->n", self._decoder_FD[feature_N], unit_D) * self._scale_F[feature_N]
        cosine_N: Vectors = np.clip(product_N, -1, 1)
        return cosine_N

    def _search(self, unit_QD: Vectors, count: int) -> Nearest:
        nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        best: list[tuple[NDArray[np.int64], Vectors]] = [nothing] * len(unit_QD)
        for start in range(0, self.num_features, self._rows):
            block = slice(start, start + self._rows)
            cosine_QR = np.clip((unit_QD @ self._decoder_FD[block].T) * self._scale_F[block], -1, 1)
            feature_R = np.arange(start, start + cosine_QR.shape[1])
            for query, cosine_R in enumerate(cosine_QR):
                feature, cosine = best[query]
                best[query] = largest(np.concatenate([feature, feature_R]), np.concatenate([cosine, cosine_R]), count)
        return Nearest(np.stack([each[0] for each in best]), np.stack([each[1] for each in best]))
