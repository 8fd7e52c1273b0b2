"""Cosines between the rows of dictionaries, block by block, and the best one-to-one matching of two of them.

Cosines keep their sign: activations of latents are never negative, so two opposite directions are two
different latents.

Shape legend: F rows (latents) of one dictionary, G of the other, D width, R rows of a block, P candidate pairs.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor
from torch.nn import functional

_BLOCK_COSINES = 1 << 22  # 16 MiB in float32
_CANDIDATES = 32


def cosine_blocks(a_FD: Tensor, b_GD: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Cosines of a few rows with all rows of the other dictionary [R, G], and the number of the first of these rows.

    All blocks are in the same memory, so each is gone with the next. With new memory for each, what is kept of them can
    lie between, and malloc then finds no place for the next one but behind all others.
    """
    b_GD = _unit(b_GD)
    rows = max(_BLOCK_COSINES // len(b_GD), 1)
    block_RG = b_GD.new_empty(min(rows, len(a_FD)), len(b_GD))
    for start in range(0, len(a_FD), rows):
        some_RD = _unit(a_FD[start : start + rows])
        yield start, torch.mm(some_RD, b_GD.T, out=block_RG[: len(some_RD)])


def largest_cosines(a_FD: Tensor, b_GD: Tensor | None = None) -> Tensor:
    """The largest cosine of each row with any row of ``b_GD``, or with any *other* row of its own dictionary.

    Returns:
        The cosines [F], float32, on the device of ``a_FD``. Rows of zeros have cosine 0 with every other.
    """
    best = []
    for start, cosines_RG in cosine_blocks(a_FD, a_FD if b_GD is None else b_GD):
        if b_GD is None:
            place_R = torch.arange(len(cosines_RG), device=cosines_RG.device)
            cosines_RG[place_R, start + place_R] = -torch.inf
        best.append(cosines_RG.amax(dim=1))
    return torch.cat(best)


def match_rows(a_FD: Tensor, b_FD: Tensor, exact_width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pair each row of one dictionary with a row of the other so that the sum of cosines is largest.

    Up to ``exact_width`` rows the optimum is found (the Hungarian problem, on a matrix of 8 F² bytes: 512 MiB
    at 8,192 rows). Above, only each row's 32 nearest on either side may be paired, plus one pairing that is
    always possible; this needs about 1 KiB a row, and falls short of the optimum by little.

    Returns:
        For each row of ``a_FD`` the number of its partner [F], and their cosine [F].
    """
    if len(a_FD) > exact_width:
        return _match_candidates(a_FD, b_FD)
    from scipy.optimize import linear_sum_assignment  # slow to import, and most steps match nothing

    # Costs rather than cosines: asked to maximise, scipy would copy the matrix.
    costs_FF = np.empty((len(a_FD), len(b_FD)))
    for start, cosines_RF in cosine_blocks(a_FD, b_FD):
        costs_FF[start : start + len(cosines_RF)] = -cosines_RF.cpu().numpy()
    rows_F, partner_F = linear_sum_assignment(costs_FF)
    return partner_F, -costs_FF[rows_F, partner_F]


def _match_candidates(a_FD: Tensor, b_FD: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    width = len(a_FD)
    row_P, column_P = _nearest(a_FD, b_FD)
    other_column_P, other_row_P = _nearest(b_FD, a_FD)
    diagonal_F = np.arange(width)  # makes sure that everything can be paired
    keys_P = np.unique(
        np.concatenate([row_P * width + column_P, other_row_P * width + other_column_P, diagonal_F * (width + 1)])
    )
    row_P, column_P = np.divmod(keys_P, width)
    cosines_P = _cosines_of(a_FD, b_FD, row_P, column_P)
    # The solver takes a missing entry for a pair that is not allowed, so no cost may be zero.
    costs_FF = csr_array((2 - cosines_P, (row_P, column_P)), shape=(width, width))
    rows_F, partner_F = min_weight_full_bipartite_matching(costs_FF)
    order_F = np.argsort(rows_F)
    partner_F = partner_F[order_F].astype(np.int64)
    return partner_F, _cosines_of(a_FD, b_FD, diagonal_F, partner_F)


def _nearest(a_FD: Tensor, b_FD: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each row of one dictionary, and the rows of the other nearest to it, as pairs."""
    count = min(_CANDIDATES, len(b_FD))
    nearest = [cosines_RF.topk(count, dim=1).indices.cpu().numpy() for _, cosines_RF in cosine_blocks(a_FD, b_FD)]
    return np.repeat(np.arange(len(a_FD)), count), np.concatenate(nearest).ravel()


def _cosines_of(
    a_FD: Tensor, b_FD: Tensor, row_P: NDArray[np.int64], column_P: NDArray[np.int64]
) -> NDArray[np.float64]:
    block = max(_BLOCK_COSINES // a_FD.shape[1], 1)
    parts = []
    for start in range(0, len(row_P), block):
        rows, columns = (torch.from_numpy(index[start : start + block]).to(a_FD.device) for index in (row_P, column_P))
        parts.append((_unit(a_FD[rows]) * _unit(b_FD[columns])).sum(dim=1).double().cpu().numpy())
    return np.concatenate(parts)


def _unit(rows_FD: Tensor) -> Tensor:
    return functional.normalize(rows_FD.detach().float(), dim=1)
