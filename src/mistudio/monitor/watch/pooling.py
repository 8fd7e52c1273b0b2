"""Values by token made into values of a text: the largest, and those that come after it.

A mean over all tokens hides what happens on few of them: of a trigger among 8,000 tokens it leaves a part in 8,000
(Constitutional probes in production, arXiv:2601.11516, found that means fail on long contexts and maxima do not).

Shape legend: B pieces of a batch, T tokens of a piece, M largest values that are kept, U columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NOTHING = float("-inf")  # where there is no token
_CHUNK, _MANY_COLUMNS = 16, 64


class Tops(NamedTuple):
    """The largest values of each column over some tokens, the largest first; ``NOTHING`` behind the last."""

    value_BMU: Tensor
    place_BU: Tensor  # token of the largest; any where there is none

    @classmethod
    def none(cls, like: "Tops") -> "Tops":
        """Those of no tokens."""
        return cls(torch.full_like(like.value_BMU, NOTHING), torch.full_like(like.place_BU, -1))


def tops(value_BTU: Tensor, counts_BT: Tensor, place_BT: Tensor, most: int) -> Tops:
    """The largest values over the tokens that count.

    Args:
        value_BTU: of each token and column; it is changed.
        counts_BT: which tokens count.
        place_BT: what to call each token.
        most: how many values are kept; all of them, where there are fewer tokens.
    """
    if not bool(counts_BT.all()):
        value_BTU.masked_fill_(~counts_BT[..., None], NOTHING)
    kept = min(most, value_BTU.shape[1])
    if kept == 1:
        value_BU, which_BU = _largest(value_BTU)
        value_BMU = value_BU[:, None]
    else:
        value_BMU, which_BMU = value_BTU.topk(kept, dim=1)
        which_BU = which_BMU[:, 0]
    place_BU = place_BT.gather(1, which_BU)
    return Tops(_filled(value_BMU, most), place_BU)


def _filled(value_BMU: Tensor, most: int) -> Tensor:
    """As many values as asked for, with nothing in place of those that are not there."""
    short = most - value_BMU.shape[1]
    if not short:
        return value_BMU
    return torch.cat([value_BMU, value_BMU.new_full((len(value_BMU), short, value_BMU.shape[2]), NOTHING)], dim=1)


def _largest(value_BTU: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each column, and its token.

    Of many columns PyTorch finds where a maximum is several times more slowly than how large it is. So maxima of chunks
    come first, and only the chunk that has the largest is looked through.
    """
    num_pieces, num_tokens, width = value_BTU.shape
    chunks = num_tokens // _CHUNK
    if value_BTU.device.type != "cpu" or width < _MANY_COLUMNS or chunks < 2:
        found = value_BTU.max(dim=1)
        return found.values, found.indices
    whole = chunks * _CHUNK
    value_BCSU = value_BTU[:, :whole].view(num_pieces, chunks, _CHUNK, width)
    top_BU, chunk_BU = value_BCSU.amax(dim=2).max(dim=1)
    index_B1SU = chunk_BU[:, None, None].expand(-1, 1, _CHUNK, -1)
    place_BU = chunk_BU * _CHUNK + value_BCSU.gather(1, index_B1SU)[:, 0].max(dim=1).indices
    if whole < num_tokens:
        rest = value_BTU[:, whole:].max(dim=1)
        place_BU = torch.where(rest.values > top_BU, rest.indices + whole, place_BU)
        top_BU = torch.maximum(top_BU, rest.values)
    return top_BU, place_BU


def merged(some: Sequence[Tops]) -> Tops:
    """The largest values over the tokens of all."""
    if len(some) == 1:
        return some[0]
    most = some[0].value_BMU.shape[1]
    value_BMU = torch.cat([each.value_BMU for each in some], dim=1).topk(most, dim=1).values
    first_SBU = torch.stack([each.value_BMU[:, 0] for each in some])
    place_SBU = torch.stack([each.place_BU for each in some])
    return Tops(value_BMU, place_SBU.gather(0, first_SBU.argmax(dim=0, keepdim=True))[0])


def one_after_the_other(some: Sequence[Tops]) -> Tops:
    """The pieces of all."""
    if len(some) == 1:
        return some[0]
    return Tops(torch.cat([each.value_BMU for each in some]), torch.cat([each.place_BU for each in some]))


def side_by_side(some: Sequence[Tops]) -> Tops:
    """The columns of all, on the CPU; where some keep fewer values, there is nothing behind their last."""
    most = max(each.value_BMU.shape[1] for each in some)
    values = [_filled(each.value_BMU, most).cpu() for each in some]
    places = [each.place_BU.cpu() for each in some]
    return Tops(values[0], places[0]) if len(some) == 1 else Tops(torch.cat(values, dim=2), torch.cat(places, dim=1))


def top_means(value_BMU: Tensor, count_U: Tensor) -> Tensor:
    """The mean of the largest ``count`` values of each column [B, U]; of those that are there, where there are fewer.

    Zero where there are none.
    """
    there_BMU = value_BMU.isfinite() & (torch.arange(value_BMU.shape[1])[:, None] < count_U)
    sums_BU = torch.where(there_BMU, value_BMU, 0.0).sum(dim=1)
    mean_BU: Tensor = sums_BU / there_BMU.sum(dim=1).clamp(min=1)
    return mean_BU
