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
        value_BU, which_BU = value_BTU.max(dim=1)
        value_BMU = value_BU[:, None]
    else:
        value_BMU, which_BMU = value_BTU.topk(kept, dim=1)
        which_BU = which_BMU[:, 0]
    place_BU = place_BT.gather(1, which_BU)
    if kept < most:
        short = value_BMU.new_full((value_BMU.shape[0], most - kept, value_BMU.shape[2]), NOTHING)
        value_BMU = torch.cat([value_BMU, short], dim=1)
    return Tops(value_BMU, place_BU)


def merged(some: Sequence[Tops]) -> Tops:
    """The largest values over the tokens of all."""
    if len(some) == 1:
        return some[0]
    most = some[0].value_BMU.shape[1]
    value_BMU = torch.cat([each.value_BMU for each in some], dim=1).topk(most, dim=1).values
    first_SBU = torch.stack([each.value_BMU[:, 0] for each in some])
    place_SBU = torch.stack([each.place_BU for each in some])
    return Tops(value_BMU, place_SBU.gather(0, first_SBU.argmax(dim=0, keepdim=True))[0])


def top_means(value_BMU: Tensor, count_U: Tensor) -> Tensor:
    """The mean of the largest ``count`` values of each column [B, U]; of those that are there, where there are fewer.

    Zero where there are none.
    """
    there_BMU = value_BMU.isfinite() & (torch.arange(value_BMU.shape[1])[:, None] < count_U)
    sums_BU = torch.where(there_BMU, value_BMU, 0.0).sum(dim=1)
    mean_BU: Tensor = sums_BU / there_BMU.sum(dim=1).clamp(min=1)
    return mean_BU
