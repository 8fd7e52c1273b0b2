"""Brute force over a decoder: the reference of every other index, and what serves a small decoder best.

Shape legend: F features, D width of the decoder's rows, Q queries, R rows of a block, K features found for a query,
N features whose cosines are asked for.
"""

import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.index.decoder_rows import scales
from mistudio.correlate.index.nearest import Nearest, Vectors, features_asked, joined, largest, unit_queries
from mistudio.parallel import one_thread

if TYPE_CHECKING:
    from torch import Tensor

_QUERIES_AT_ONCE = 64
_SHARED_OUT_FROM = 8  # queries
_BLOCK_COSINES = 1 << 23  # 32 MiB: what is held at once


class ExactIndex:
    """Brute force over a decoder, block by block.

    Args:
        decoder_FD: float32, mapped or in memory; it is read and not copied.
        scale_F: one divided by the length of each row, where that is known; 0 for a row that is zero.
    """

    def __init__(self, decoder_FD: Vectors, scale_F: Vectors | None = None) -> None:
        self.decoder_FD: Vectors = np.asarray(decoder_FD, dtype=np.float32)
        self._decoder_FD = _as_tensor(self.decoder_FD)
        self.scale_F = scales(decoder_FD) if scale_F is None else scale_F

    @property
    def num_features(self) -> int:
        """Decoder directions that are searched."""
        return len(self.decoder_FD)

    @property
    def width(self) -> int:
        """Components of a vector."""
        return int(self.decoder_FD.shape[1])

    def search(self, vector_QD: NDArray[np.floating], count: int) -> Nearest:
        """The features with the largest cosines to each vector; see :meth:`DirectionIndex.search`."""
        unit_QD = unit_queries(vector_QD, self.width)
        count = features_asked(count, self.num_features)
        starts = range(0, len(unit_QD), _QUERIES_AT_ONCE)
        return joined([self._search(unit_QD[start : start + _QUERIES_AT_ONCE], count) for start in starts], count)

    def cosines(self, unit_D: Vectors, feature_N: NDArray[np.int64]) -> Vectors:
        """The cosines of some features with one vector of length one.

        Without BLAS, which would share so small a product out among threads that others use.
        """
        product_N = np.einsum("nd,d->n", self.decoder_FD[feature_N], unit_D) * self.scale_F[feature_N]
        cosine_N: Vectors = np.clip(product_N, -1, 1)
        return cosine_N

    def _search(self, unit_QD: Vectors, count: int) -> Nearest:
        nothing = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        best: list[tuple[NDArray[np.int64], Vectors]] = [nothing] * len(unit_QD)
        rows = _BLOCK_COSINES // len(unit_QD)
        for start in range(0, self.num_features, rows):
            cosine_QR = self._products(unit_QD, slice(start, start + rows))
            cosine_QR *= self.scale_F[start : start + rows]
            feature_R = np.arange(start, start + cosine_QR.shape[1])
            for query, cosine_R in enumerate(cosine_QR):
                own, found = best[query], largest(feature_R, cosine_R, count)
                best[query] = largest(np.concatenate([own[0], found[0]]), np.concatenate([own[1], found[1]]), count)
        cosine_QK = np.clip(np.stack([each[1] for each in best]), -1, 1)
        return Nearest(np.stack([each[0] for each in best]), cosine_QK)

    def _products(self, unit_QD: Vectors, rows: slice) -> Vectors:
        """Inner products [Q, R], by PyTorch: NumPy's BLAS shares all out among threads, and cannot be told not to.

        Few queries read more than they compute: on a machine that is busy, waiting for a second thread takes longer
        than it saves.
        """
        import torch

        with one_thread() if len(unit_QD) < _SHARED_OUT_FROM else nullcontext():
            product_QR: Vectors = (torch.from_numpy(unit_QD) @ self._decoder_FD[rows].T).numpy()
        return product_QR


def _as_tensor(decoder_FD: Vectors) -> "Tensor":
    """The same memory as a tensor; PyTorch warns of memory that is read only, and nothing is written to it."""
    import torch

    if decoder_FD.flags.writeable:
        return torch.from_numpy(decoder_FD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(decoder_FD)
