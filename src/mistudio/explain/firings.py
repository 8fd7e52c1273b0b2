"""Which features fire on which tokens, and how strongly: a sparse table, by feature.

Made in one pass over captured activations, a few thousand rows at a time. What is held is 8 bytes an active
(token, feature) pair of the tokens asked for, twice that while the table is put in order.

Shape legend: N tokens, F features, A active (token, feature) pairs, R rows of activations, D their width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.tokens import Tokens
from mistudio.progress import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mistudio.activations import RowSource
    from mistudio.sae import SparseAutoencoder

_META_ROWS = 1 << 20
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class Firings:
    """Activations of F features over N tokens.

    Attributes:
        num_tokens: N.
        start_F: where each feature's pairs begin, and where the last one's end [F + 1].
        token_A: tokens, ascending within a feature.
        value_A: activations, above 0.
        filtered_tokens: tokens beyond the autoencoder's norm limit, on which nothing fires; None where it has none.
    """

    num_tokens: int
    start_F: NDArray[np.int64]
    token_A: NDArray[np.int32]
    value_A: NDArray[np.float32]
    filtered_tokens: int | None = None

    @property
    def num_features(self) -> int:
        """F."""
        return len(self.start_F) - 1

    def filtered(self) -> dict[str, int]:
        """``filtered_tokens`` for a summary; nothing where there is no norm limit."""
        return {} if self.filtered_tokens is None else {"filtered_tokens": self.filtered_tokens}

    def of(self, feature: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The tokens that a feature fires on, ascending, and its activations there."""
        pairs = slice(int(self.start_F[feature]), int(self.start_F[feature + 1]))
        return self.token_A[pairs], self.value_A[pairs]

    def dense(self, feature: int) -> NDArray[np.float32]:
        """A feature's activation on every token [N]."""
        token_A, value_A = self.of(feature)
        value_N = np.zeros(self.num_tokens, dtype=np.float32)
        value_N[token_A] = value_A
        return value_N

    def max_F(self) -> NDArray[np.float32]:
        """The largest activation of each feature; 0 where it never fires."""
        max_F = np.zeros(self.num_features, dtype=np.float32)
        alive = np.flatnonzero(np.diff(self.start_F))
        if len(alive):
            max_F[alive] = np.maximum.reduceat(self.value_A, self.start_F[alive])
        return max_F


def captured_sequences(source: "RowSource[Tensor]") -> int:
    """How many of the first sequences of a split have activations."""
    return len(source.sequence_ends())


def read_firings(
    source: "RowSource[Tensor]", sae: "SparseAutoencoder", tokens: Tokens, device: "torch.device | str" = "cpu"
) -> Firings:
    """Encode the activations of ``tokens``; rows of other tokens are not read.

    Args:
        source: rows of the split that ``tokens`` come from.
        sae: the autoencoder.
        tokens: whole sequences.
        device: where to encode.
    """
    import torch

    parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]] = []
    num_filtered = 0
    with progress("Encode tokens", len(tokens), "tokens") as bar:
        for row_R, token_R in _batches(source, tokens):
            acts_RD = _rows(source, row_R).to(device, torch.float32)
            active = sae.encode_active(acts_RD)
            if sae.norm_limit is not None:
                num_filtered += int((~sae.norm_limit.keeps(acts_RD)).sum())
            place_A = token_R[active.token_A.cpu().numpy()]
            feature_A = active.feature_A.cpu().numpy().astype(np.int32)
            parts.append((place_A.astype(np.int32), feature_A, active.value_A.cpu().numpy()))
            bar.advance(len(row_R))
    firings = _table(parts, len(tokens), sae.width)
    return firings if sae.norm_limit is None else replace(firings, filtered_tokens=num_filtered)


def _batches(source: "RowSource[Tensor]", tokens: Tokens) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of the source and the tokens that they belong to, some thousands at a time."""
    starts = tokens.sequence_starts
    sequences = tokens.sequence_N[starts]
    first_position = tokens.position_N[starts]
    length_S = np.diff(starts, append=len(tokens))
    for start in range(0, len(source), _META_ROWS):
        meta = source.meta(start, min(start + _META_ROWS, len(source)))
        at_R = np.minimum(np.searchsorted(sequences, meta["sequence"]), len(sequences) - 1)
        place_R = meta["position"] - first_position[at_R]
        wanted = (sequences[at_R] == meta["sequence"]) & (place_R >= 0) & (place_R < length_S[at_R])
        row_R, token_R = start + np.flatnonzero(wanted), (starts[at_R] + place_R)[wanted]
        for first in range(0, len(row_R), ROWS_AT_ONCE):
            yield row_R[first : first + ROWS_AT_ONCE], token_R[first : first + ROWS_AT_ONCE]


def _rows(source: "RowSource[Tensor]", row_R: NDArray[np.int64]) -> "Tensor":
    """Rows of these ascending numbers, read in as few ranges as they make."""
    import torch

    breaks = np.flatnonzero(np.diff(row_R) != 1) + 1
    firsts, lasts = row_R[np.append(0, breaks)], row_R[np.append(breaks, len(row_R)) - 1]
    into_RD = torch.empty(len(row_R), source.width, dtype=getattr(torch, source.dtype))
    ranges = list(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True))
    source.read(ranges, (into_RD,), torch.arange(len(row_R)))
    return into_RD


def _table(
    parts: list[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]], num_tokens: int, num_features: int
) -> Firings:
    from scipy import sparse

    token_A, feature_A, value_A = (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    matrix = sparse.coo_array((value_A, (token_A, feature_A)), shape=(num_tokens, num_features)).tocsc()
    matrix.sort_indices()
    indices = cast(NDArray[np.int32], matrix.indices.astype(np.int32, copy=False))
    return Firings(num_tokens, matrix.indptr.astype(np.int64), indices, matrix.data)
