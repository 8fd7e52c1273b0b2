"""How the next token is chosen, for rows that each want it otherwise.

A row is drawn with one number from its own generator: the first token at which the distribution's sum exceeds it. So
what a row draws depends on its seed and on how many tokens it has, not on the rows beside it.

Shape legend: R rows, V vocabulary.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choosing:
    """How a row's tokens are chosen.

    Attributes:
        temperature: 0 for always the likeliest.
        top_k: of so many likeliest tokens; 0: of all.
        top_p: of the likeliest that together are as likely.
        min_p: of those at least as likely as this share of the likeliest.
        seed: of what is drawn; None: another one each time.
        bias: added to logits, by token.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: str | None = None
    bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_sorted(self) -> bool:
        """Whether tokens have to be put in order, the likeliest first."""
        return bool(self.top_k) or self.top_p < 1

    def draws(self) -> random.Random:
        """The generator of a row's numbers."""
        return random.Random(self.seed)  # noqa: S311 - nothing is kept secret by it


def biased(logits_RV: Tensor, choosings: Sequence[Choosing]) -> Tensor:
    """Logits with each row's bias, in float32."""
    logits_RV = logits_RV.float()
    if not any(choosing.bias for choosing in choosings):
        return logits_RV
    logits_RV = logits_RV.clone()
    for row, choosing in enumerate(choosings):
        if choosing.bias:
            tokens = torch.tensor(list(choosing.bias), device=logits_RV.device)
            logits_RV[row, tokens] += torch.tensor(list(choosing.bias.values()), device=logits_RV.device)
    return logits_RV


def choose(logits_RV: Tensor, choosings: Sequence[Choosing], draws: Sequence[random.Random]) -> list[int]:
    """The next token of each row.

    Args:
        logits_RV: with all that is added to them.
        choosings: how each row is chosen.
        draws: each row's generator; those of greedy rows are not used.
    """
    chosen: list[int] = logits_RV.argmax(dim=-1).tolist()
    drawn = [row for row, choosing in enumerate(choosings) if choosing.temperature > 0]
    # Each kind by itself: in which order chances are summed up may not depend on the rows beside.
    for is_sorted in (False, True):
        rows = [row for row in drawn if choosings[row].is_sorted == is_sorted]
        if rows:
            some, numbers = [choosings[row] for row in rows], [draws[row].random() for row in rows]
            for row, token in zip(rows, _drawn(logits_RV[rows], some, numbers, is_sorted=is_sorted), strict=True):
                chosen[row] = token
    return chosen


def _drawn(logits_RV: Tensor, choosings: Sequence[Choosing], numbers: Sequence[float], *, is_sorted: bool) -> list[int]:
    # In float64, and from the largest down: neither a huge vocabulary nor a tiny temperature may lose a token.
    top_R1 = logits_RV.max(dim=-1, keepdim=True).values
    scaled_RV = (logits_RV - top_R1).double() / _column([choosing.temperature for choosing in choosings], logits_RV)
    order_RV = None
    if is_sorted:
        scaled_RV, order_RV = scaled_RV.sort(dim=-1, descending=True, stable=True)
    kept_RV = _kept(scaled_RV.softmax(dim=-1), choosings, is_sorted=is_sorted)
    sum_RV = kept_RV.cumsum(dim=-1)
    wanted_R1 = _column(numbers, logits_RV) * sum_RV[:, -1:]
    place_R1 = torch.searchsorted(sum_RV, wanted_R1, right=True)
    last_R1 = (kept_RV > 0).double().cumsum(dim=-1).argmax(dim=-1, keepdim=True)  # the last that may be chosen
    place_R1 = torch.minimum(place_R1, last_R1)
    token_R1 = place_R1 if order_RV is None else order_RV.gather(1, place_R1)
    tokens: list[int] = token_R1[:, 0].tolist()
    return tokens


def _kept(chance_RV: Tensor, choosings: Sequence[Choosing], *, is_sorted: bool) -> Tensor:
    """Chances, with zeros where a row leaves a token out; of all rows sorted alike, or of none."""
    kept_RV = chance_RV
    if is_sorted:
        width = chance_RV.shape[-1]
        rank_V = torch.arange(width, device=chance_RV.device)
        most_R1 = _column([float(choosing.top_k or width) for choosing in choosings], chance_RV)
        kept_RV = torch.where(rank_V < most_R1, kept_RV, 0.0)
        # The share is of what top_k left.
        kept_RV = kept_RV / kept_RV.sum(dim=-1, keepdim=True)
        before_RV = kept_RV.cumsum(dim=-1) - kept_RV
        kept_RV = torch.where(before_RV < _column([choosing.top_p for choosing in choosings], chance_RV), kept_RV, 0.0)
    if any(choosing.min_p for choosing in choosings):
        least_R1 = (
            _column([choosing.min_p for choosing in choosings], chance_RV) * kept_RV.max(dim=-1, keepdim=True).values
        )
        kept_RV = torch.where(kept_RV >= least_R1, kept_RV, 0.0)
    return kept_RV


def _column(values: Sequence[float], beside: Tensor) -> Tensor:
    """One number a row [R, 1], in float64."""
    return torch.tensor(values, dtype=torch.float64, device=beside.device)[:, None]
