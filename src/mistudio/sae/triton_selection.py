"""The K largest entries of each row on a GPU, exactly, in one pass over the pre-activations.

Pre-activations are by far the largest tensor of a step, so that what counts is how often they are read. The radix
select of ``torch.topk`` reads them once for every 8 bits, and again to collect. Here one pass writes the maximum of
each group of S neighbours. The K groups with the largest maxima hold the K largest entries, since no entry elsewhere
exceeds any of these K maxima; and a group of neighbours is read in one go. So a row becomes two short lists, of F / S
maxima and of K * S candidates, about 2 * sqrt(F * K) values in all, and each fits into the registers of one program.

That program finds the K-th largest value bit by bit: how many values reach a trial value decides a bit. Then it
takes all that are larger, and of those that are equal the first ones. So the indices come in rising order, and among
equal values the lower index wins.

Shape legend: T tokens, F features (latents), K active latents a token, G groups of S latents; in kernels N values
that a program holds, B groups of a tile.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mistudio.sae.triton_kernels import on_device

# A row this wide is selected from at once: finding maxima first would only add launches.
_NARROW = 8192
_MAX_VALUES = 16_384
_TILE = 4096
# Bits of float32 in which values of each format differ.
_BITS = {torch.float32: 32, torch.float16: 32, torch.bfloat16: 16}


def top_indices(pre_TF: Tensor, k: int) -> Tensor:
    """Indices of the K largest entries of each row, rising [T, K]; in no order where only ``torch.topk`` serves."""
    num_tokens, width = pre_TF.shape
    group = 1 if width <= _NARROW else _group_size(width, k)
    num_groups = triton.cdiv(width, group)
    if pre_TF.dtype not in _BITS or max(num_groups, k * group if group > 1 else 0) > _MAX_VALUES:
        return pre_TF.topk(k, dim=1, sorted=False).indices
    pre_TF = pre_TF.contiguous()
    out_TK = torch.empty(num_tokens, k, dtype=torch.int64, device=pre_TF.device)
    with on_device(pre_TF):
        if group == 1:
            _launch_select(out_TK, pre_TF, None, 1)
            return out_TK
        maxima_TG = pre_TF.new_empty(num_tokens, num_groups)
        groups_TK = torch.empty(num_tokens, k, dtype=torch.int32, device=pre_TF.device)
        tile = max(_TILE // group, 1)
        _group_maxima[(num_tokens, triton.cdiv(num_groups, tile))](
            maxima_TG, pre_TF, width, num_groups, S=group, B=tile
        )
        _launch_select(groups_TK, maxima_TG, None, 1)
        _launch_select(out_TK, pre_TF, groups_TK, group)
    return out_TK


def _group_size(width: int, k: int) -> int:
    """The power of two that makes maxima and candidates about as many."""
    return 1 << round(math.log2(max(width / max(k, 1), 1)) / 2)


def _launch_select(out_TK: Tensor, values_TF: Tensor, groups_TK: Tensor | None, group: int) -> None:
    (num_tokens, width), k = values_TF.shape, out_TK.shape[1]
    num_values = triton.next_power_of_2(width if groups_TK is None else k * group)
    _select[(num_tokens,)](
        out_TK,
        values_TF,
        width,
        groups_TK,
        k,
        S=group,
        BITS=_BITS[values_TF.dtype],
        N=num_values,
        num_warps=min(max(num_values // 512, 4), 16),
    )


@triton.jit
def _group_maxima(
    maxima_TG: tl.tensor, values_TF: tl.tensor, width: int, num_groups: int, S: tl.constexpr, B: tl.constexpr
) -> None:
    token = tl.program_id(0).to(tl.int64)
    group_B = tl.program_id(1) * B + tl.arange(0, B)
    index_BS = group_B[:, None] * S + tl.arange(0, S)[None, :]
    values_BS = tl.load(values_TF + token * width + index_BS, mask=index_BS < width, other=-float("inf"))
    tl.store(maxima_TG + token * num_groups + group_B, tl.max(values_BS, axis=1), mask=group_B < num_groups)


@triton.jit(do_not_specialize=["k"])
def _select(
    out_TK: tl.tensor,
    values_TF: tl.tensor,
    width: int,
    groups_TK: tl.tensor,
    k: int,
    S: tl.constexpr,
    BITS: tl.constexpr,
    N: tl.constexpr,
) -> None:
    """Indices of the K largest entries of a row, or of those groups of S of its entries that ``groups_TK`` names."""
    token = tl.program_id(0).to(tl.int64)
    index_N = tl.arange(0, N)
    inside_N = index_N < width
    if groups_TK is not None:
        named_N = index_N < k * S
        index_N = tl.load(groups_TK + token * k + index_N // S, mask=named_N, other=0) * S + index_N % S
        inside_N = named_N & (index_N < width)
    value_N = tl.load(values_TF + token * width + index_N, mask=inside_N, other=0).to(tl.float32)
    bits_N = value_N.to(tl.int32, bitcast=True)
    # As integers, these compare as the values do. Bits that the format lacks are cleared.
    key_N = (bits_N ^ ((bits_N >> 31) & 0x7FFFFFFF)) & -(1 << (32 - BITS))
    key_N = tl.where(inside_N, key_N, -(1 << 31))
    least = tl.full((), -(1 << 31), tl.int32)
    for step in range(BITS):
        trial = least ^ (tl.full((), 1, tl.int32) << (31 - step))
        least = tl.where(tl.sum((key_N >= trial).to(tl.int32)) >= k, trial, least)
    larger_N, equal_N = key_N > least, key_N == least
    num_equal = k - tl.sum(larger_N.to(tl.int32))
    taken_N = larger_N | (equal_N & (tl.cumsum(equal_N.to(tl.int32)) <= num_equal))
    place_N = tl.cumsum(taken_N.to(tl.int32)) - 1
    tl.store(out_TK + token * k + place_N, index_N, mask=taken_N)
