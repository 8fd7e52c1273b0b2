"""The sparse products on a GPU: bags of rows, and products of pairs of rows.

They stand in for ``embedding_bag`` and its gradient. A program holds a tile of several rows by many columns, so that
several rows are on their way at once; sums are kept in float32 (float64 for float64) and rows may be bfloat16.

A popular latent is active on thousands of tokens, most latents on a few. So the pairs, sorted by latent, are also
cut into pieces of fixed size. A first kernel sums those pieces that lie within one bag; then each bag adds its
pieces, and the pairs before and after them. The longest chain of additions shrinks by the size of a piece, and no
count has to be known on the host. Every sum has one order, and there are no atomic additions: the same numbers
give the same bits.

Shape legend: T tokens, D width of rows, F features (latents), A active (token, latent) pairs, R rows, N bags,
Q pieces; in kernels P pairs and C columns of a tile.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIECE = 128
_TILE = 4096
_MAX_COLUMNS = 1024
_MAX_PAIRS = 8


def bag_sums(row_A: Tensor, weights_A: Tensor, starts_N: Tensor, matrix_RD: Tensor) -> Tensor:
    """For each bag, the weighted sum of its rows [N, D]; for bags of up to a few hundred rows.

    Args:
        row_A: index of the row of each pair, ordered by bag.
        weights_A: weight of each pair.
        starts_N: where each bag starts, int32; it ends where the next one starts.
        matrix_RD: the rows.
    """
    matrix_RD = matrix_RD.contiguous()
    out_ND = _new(weights_A, matrix_RD, len(starts_N), matrix_RD.shape[1])
    _launch_bags(out_ND, None, 1, row_A, weights_A, starts_N, matrix_RD)
    return out_ND


def split_bag_sums(row_A: Tensor, weights_A: Tensor, starts_N: Tensor, bag_A: Tensor, matrix_RD: Tensor) -> Tensor:
    """As :func:`bag_sums`, for bags of any size; ``bag_A`` is the bag of each pair."""
    matrix_RD = matrix_RD.contiguous()
    num_pairs, width = len(row_A), matrix_RD.shape[1]
    out_ND = _new(weights_A, matrix_RD, len(starts_N), width)
    # The pieces' sums take no more memory than the result.
    piece = max(_PIECE, triton.next_power_of_2(num_pairs // max(len(starts_N), 1)))
    pieces_QD = torch.empty(num_pairs // piece, width, dtype=_sum_dtype(out_ND), device=out_ND.device)
    if len(pieces_QD):
        pairs, columns = _tile(width)
        with on_device(out_ND):
            _piece_sums[(len(pieces_QD), triton.cdiv(width, columns))](
                pieces_QD, piece, row_A, weights_A, bag_A, matrix_RD, width, SUM=_sum_type(out_ND), P=pairs, C=columns
            )
    _launch_bags(out_ND, pieces_QD if len(pieces_QD) else None, piece, row_A, weights_A, starts_N, matrix_RD)
    return out_ND


def pair_products(left_A: Tensor, left_TD: Tensor, right_A: Tensor, right_FD: Tensor) -> Tensor:
    """For each pair, the product of a row of one matrix with a row of another [A]."""
    left_TD, right_FD = left_TD.contiguous(), right_FD.contiguous()
    num_pairs, width = len(left_A), left_TD.shape[1]
    out_A = _new(left_TD, right_FD, num_pairs)
    pairs, columns = _tile(width)
    with on_device(out_A):
        _products[(triton.cdiv(num_pairs, pairs),)](
            out_A, num_pairs, left_A, left_TD, right_A, right_FD, width, SUM=_sum_type(out_A), P=pairs, C=columns
        )
    return out_A


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, on which Triton launches; does nothing for a CPU."""
    return torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]


def _launch_bags(
    out_ND: Tensor,
    pieces_QD: Tensor | None,
    piece: int,
    row_A: Tensor,
    weights_A: Tensor,
    starts_N: Tensor,
    matrix_RD: Tensor,
) -> None:
    num_bags, width = out_ND.shape
    pairs, columns = _tile(width)
    with on_device(out_ND):
        _bag_sums[(num_bags, triton.cdiv(width, columns))](
            out_ND,
            pieces_QD,
            piece,
            row_A,
            weights_A,
            len(row_A),
            starts_N,
            num_bags,
            matrix_RD,
            width,
            SUM=_sum_type(out_ND),
            P=pairs,
            C=columns,
        )


def _new(left: Tensor, right: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.promote_types(left.dtype, right.dtype), device=left.device)


def _sum_dtype(out: Tensor) -> torch.dtype:
    return torch.promote_types(out.dtype, torch.float32)


def _sum_type(out: Tensor) -> Any:
    return tl.float64 if out.dtype == torch.float64 else tl.float32


def _tile(width: int) -> tuple[int, int]:
    """Pairs and columns that a program holds at once."""
    columns = min(max(triton.next_power_of_2(width), 16), _MAX_COLUMNS)
    return min(_TILE // columns, _MAX_PAIRS), columns


@triton.jit
def _add_rows(
    sum_PC: tl.tensor,
    first: int,
    last: int,
    row_A: tl.tensor,
    weights_A: tl.tensor,
    matrix_RD: tl.tensor,
    width: int,
    column_C: tl.tensor,
    P: tl.constexpr,
) -> tl.tensor:
    """Add the weighted rows of the pairs from ``first`` to before ``last``."""
    for at in range(first, last, P):
        pair_P = at + tl.arange(0, P)
        row_P = tl.load(row_A + pair_P, mask=pair_P < last, other=0).to(tl.int64)
        weight_P = tl.load(weights_A + pair_P, mask=pair_P < last, other=0).to(sum_PC.dtype)
        inside_PC = (pair_P < last)[:, None] & (column_C < width)[None, :]
        rows_PC = tl.load(matrix_RD + row_P[:, None] * width + column_C[None, :], mask=inside_PC, other=0)
        sum_PC += weight_P[:, None] * rows_PC.to(sum_PC.dtype)
    return sum_PC


@triton.jit(do_not_specialize=["piece"])
def _piece_sums(
    pieces_QD: tl.tensor,
    piece: int,
    row_A: tl.tensor,
    weights_A: tl.tensor,
    bag_A: tl.tensor,
    matrix_RD: tl.tensor,
    width: int,
    SUM: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """The sum of a piece that lies within one bag; other pieces are left alone, since no bag asks for them."""
    number = tl.program_id(0)
    first, last = number * piece, (number + 1) * piece
    if tl.load(bag_A + first) == tl.load(bag_A + last - 1):
        column_C = tl.program_id(1) * C + tl.arange(0, C)
        sum_PC = tl.zeros((P, C), SUM)
        sum_PC = _add_rows(sum_PC, first, last, row_A, weights_A, matrix_RD, width, column_C, P)
        out_C = pieces_QD + number.to(tl.int64) * width + column_C
        tl.store(out_C, tl.sum(sum_PC, axis=0), mask=column_C < width)


@triton.jit(do_not_specialize=["piece", "num_pairs", "num_bags"])
def _bag_sums(
    out_ND: tl.tensor,
    pieces_QD: tl.tensor,
    piece: int,
    row_A: tl.tensor,
    weights_A: tl.tensor,
    num_pairs: int,
    starts_N: tl.tensor,
    num_bags: int,
    matrix_RD: tl.tensor,
    width: int,
    SUM: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
) -> None:
    """The sum of a bag: all of its pairs, or those before its first whole piece, its pieces, and those after."""
    bag = tl.program_id(0)
    column_C = tl.program_id(1) * C + tl.arange(0, C)
    first = tl.load(starts_N + bag)
    last = tl.load(starts_N + bag + 1, mask=bag + 1 < num_bags, other=num_pairs)
    sum_PC = tl.zeros((P, C), SUM)
    if pieces_QD is not None:
        first_piece, last_piece = tl.cdiv(first, piece), last // piece
        before = tl.minimum(first_piece * piece, last)
        sum_PC = _add_rows(sum_PC, first, before, row_A, weights_A, matrix_RD, width, column_C, P)
        for at in range(first_piece, last_piece, P):
            piece_P = at + tl.arange(0, P)
            inside_PC = (piece_P < last_piece)[:, None] & (column_C < width)[None, :]
            place_PC = piece_P.to(tl.int64)[:, None] * width + column_C[None, :]
            sum_PC += tl.load(pieces_QD + place_PC, mask=inside_PC, other=0)
        first = tl.maximum(last_piece * piece, before)
    sum_PC = _add_rows(sum_PC, first, last, row_A, weights_A, matrix_RD, width, column_C, P)
    out_C = out_ND + bag.to(tl.int64) * width + column_C
    tl.store(out_C, tl.sum(sum_PC, axis=0), mask=column_C < width)


@triton.jit(do_not_specialize=["num_pairs"])
def _products(
    out_A: tl.tensor,
    num_pairs: int,
    left_A: tl.tensor,
    left_TD: tl.tensor,
    right_A: tl.tensor,
    right_FD: tl.tensor,
    width: int,
    SUM: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
) -> None:
    pair_P = tl.program_id(0) * P + tl.arange(0, P)
    left_P = tl.load(left_A + pair_P, mask=pair_P < num_pairs, other=0).to(tl.int64)
    right_P = tl.load(right_A + pair_P, mask=pair_P < num_pairs, other=0).to(tl.int64)
    sum_PC = tl.zeros((P, C), SUM)
    for at in range(0, width, C):
        column_C = at + tl.arange(0, C)
        inside_PC = (pair_P < num_pairs)[:, None] & (column_C < width)[None, :]
        left_PC = tl.load(left_TD + left_P[:, None] * width + column_C[None, :], mask=inside_PC, other=0)
        right_PC = tl.load(right_FD + right_P[:, None] * width + column_C[None, :], mask=inside_PC, other=0)
        sum_PC += left_PC.to(SUM) * right_PC.to(SUM)
    tl.store(out_A + pair_P, tl.sum(sum_PC, axis=1), mask=pair_P < num_pairs)
