"""Which latents are active: the largest of each token, or the largest of a batch.

Both are exact, and both pass over most of the pre-activations without comparing them one by one.

Shape legend: T tokens, F features (latents), K active latents a token, G groups of S latents, A active
pairs, P all pairs.
"""

import numpy as np
import torch
from torch import Tensor

from mistudio.sae.backend import serves_triton
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.workers import ALONE, Workers

_GROUP_SIZE = 8
_QUICKSELECT_THREADS = 2
_HALVES = (torch.bfloat16, torch.float16)
_MOST_PACKED = 1 << 16  # columns that the lower half of a 32-bit key can tell apart
_SAMPLED_TOKENS = 128
_MARGIN = 1.5


def top_indices(pre_TF: Tensor, k: int) -> Tensor:
    """Indices of the K largest entries of each row, in no order [T, K].

    On a CPU most of a row is passed over: of G groups of S entries, those with the K largest maxima hold the K
    largest entries, since no entry elsewhere exceeds any of these K maxima. Finding maxima is much cheaper than
    selecting. The same is done on a GPU where Triton can be used.

    Numbers of 16 bits are compared there as integers, which order those above zero alike. Where fewer than K are above
    zero, which of the others are taken is left open: none of them is active.
    """
    if serves_triton(pre_TF):
        from mistudio.sae import triton_selection

        return triton_selection.top_indices(pre_TF, k)
    num_groups = pre_TF.shape[1] // _GROUP_SIZE
    if pre_TF.device.type != "cpu" or pre_TF.shape[1] % _GROUP_SIZE or num_groups < 2 * k:
        return pre_TF.topk(k, dim=1, sorted=False).indices
    if pre_TF.dtype in _HALVES and num_groups <= _MOST_PACKED:
        pre_TF = pre_TF.view(torch.int16)
    return _top_of_groups(pre_TF, k)


def _top_of_groups(pre_TF: Tensor, k: int) -> Tensor:
    """Indices of the K largest entries of each row, which has a multiple of S and at least S K of them."""
    num_groups = pre_TF.shape[1] // _GROUP_SIZE
    # A group is a column of this view, not a run of neighbours: maxima over columns are fast.
    maxima_TG = pre_TF.view(-1, _GROUP_SIZE, num_groups).amax(dim=1)
    group_TK = _largest(maxima_TG, k)
    first_S = torch.arange(0, pre_TF.shape[1], num_groups, device=pre_TF.device)
    candidates = (group_TK[:, None, :] + first_S[:, None]).flatten(1)
    return candidates.gather(1, _largest(pre_TF.gather(1, candidates), k))


def _largest(values_TC: Tensor, k: int) -> Tensor:
    """Indices of the K largest entries of each row. NumPy's quickselect takes half of topk's time, on one thread.

    It is faster still on integers: those of 16 bits are packed with the numbers of their columns and moved as one.
    """
    if values_TC.device.type != "cpu" or torch.get_num_threads() > _QUICKSELECT_THREADS:
        return values_TC.topk(k, dim=1, sorted=False).indices
    split = values_TC.shape[1] - k
    if values_TC.dtype == torch.int16:
        packed_TC = values_TC.numpy().astype(np.int32) << 16 | np.arange(values_TC.shape[1], dtype=np.int32)
        packed_TC.partition(split, axis=1)
        return torch.from_numpy(packed_TC[:, split:] & 0xFFFF).long()
    wide_TC = values_TC.float() if values_TC.dtype in _HALVES else values_TC
    return torch.from_numpy(np.argpartition(wide_TC.numpy(), split, axis=1)[:, split:])


def ascending(numbers_N: Tensor) -> Tensor:
    """Whole numbers in their order. On a CPU NumPy's sort takes a sixth of PyTorch's time."""
    if numbers_N.device.type == "cpu":
        return torch.from_numpy(np.sort(numbers_N.numpy()))
    return numbers_N.sort().values


def top_pattern(pre_TF: Tensor, k: int, workers: Workers = ALONE) -> ActivePattern:
    """The pattern of the K largest entries of each row, of which other processes may hold the other columns."""
    num_features = pre_TF.shape[1]
    # Of the dead latents this process may have none.
    indices_TK = top_indices(pre_TF, min(k, num_features)) if num_features else pre_TF.long()
    pattern = ActivePattern.of_indices(indices_TK, num_features)
    if workers.size == 1:
        return pattern
    return pattern.subset(workers.among_largest(pre_TF.gather(1, indices_TK), k).flatten())


def batch_top(pre_TF: Tensor, num_pairs: int, workers: Workers = ALONE) -> ActivePattern:
    """The pattern of the largest positive entries of the whole matrix, at most ``num_pairs`` of them.

    Other processes may hold other rows or columns of it. On a GPU there are always so many, and where fewer are
    positive, the rest are others, none of which is active.
    """
    of_batch = _batch_top if pre_TF.device.type == "cpu" else _batch_top_unseen
    pattern = of_batch(pre_TF, num_pairs)
    if workers.size == 1:
        return pattern
    return pattern.subset(workers.among_largest(pattern.gather(pre_TF)[None], num_pairs)[0])


def _batch_top(pre_TF: Tensor, num_pairs: int) -> ActivePattern:
    """The pattern of the largest positive entries of a matrix, at most ``num_pairs`` of them.

    A cut guessed from some rows, low enough to leave half as many again, is checked by counting and lowered
    to zero where it was too high. So the exact selection runs over few entries.
    """
    cut = _guess(pre_TF, num_pairs)
    mask_TF = pre_TF > cut
    candidates = ActivePattern.of_mask(mask_TF)
    if len(candidates.feature_A) < num_pairs and cut > 0:
        candidates = ActivePattern.of_mask(pre_TF > 0)
    if len(candidates.feature_A) <= num_pairs:
        return candidates
    kept = _largest(candidates.gather(pre_TF)[None], num_pairs)[0]
    return candidates.subset(ascending(kept))


def _batch_top_unseen(pre_TF: Tensor, num_pairs: int) -> ActivePattern:
    """The pattern of the ``num_pairs`` largest entries of a matrix, without waiting for the device to count any.

    As :func:`top_indices`, with the whole matrix as one row: maxima take one pass over it, and the rest is short.
    """
    num_tokens, num_features = pre_TF.shape
    num_pairs = min(num_pairs, pre_TF.numel())
    row_1P = pre_TF.reshape(1, -1)
    if pre_TF.numel() % _GROUP_SIZE or pre_TF.numel() <= 2 * num_pairs * _GROUP_SIZE:
        flat_A = row_1P.topk(num_pairs, dim=1, sorted=False).indices[0]
    else:
        flat_A = _top_of_groups(row_1P, num_pairs)[0]
    return ActivePattern.of_places(ascending(flat_A), num_tokens, num_features)


def _guess(pre_TF: Tensor, num_pairs: int) -> float:
    """A value that about 1.5 x ``num_pairs`` entries exceed, from evenly spaced rows."""
    stride = max(len(pre_TF) // _SAMPLED_TOKENS, 1)
    sample = pre_TF[::stride].reshape(-1).float()
    rank = int(_MARGIN * num_pairs * len(sample) / max(pre_TF.numel(), 1)) + 1
    if rank >= len(sample):
        return 0.0
    return max(float(sample.topk(rank, sorted=False).values.min()), 0.0)
