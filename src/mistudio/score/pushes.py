"""How long a push has to be to change a model's predictions by a given amount.

The prompts are run to the hook point once. Each length that is tried goes on from there, together with those that other
directions try: every search asks for one length at a time, and all that are asked for are run as one batch.

Shape legend: B prompts, T tokens, D width of the hook point, P pushes, N tokens of all prompts, E width of what the
output head reads, V vocabulary.
"""

import math
from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from mistudio.instrument.resume import continue_to_head, head_logits, run_to
from mistudio.score.config import SteeringConfig
from mistudio.subject import ResolvedHook, Subject

_CLOSE_ENOUGH = 0.05  # of the target
_LONGEST = 2.0**20
_SHORTEST = 2.0**-20
_LOGITS = 1 << 22  # that are compared at once


class Divergence:
    """How far predictions on some prompts move when a vector is added to all activations at a hook point.

    Args:
        subject: the model.
        hook: where the vector is added.
        ids_BT: the prompts.
    """

    @torch.no_grad()
    def __init__(self, subject: Subject, hook: ResolvedHook, ids_BT: Tensor) -> None:
        self._subject, self._prefix = subject, run_to(subject, [hook], ids_BT)
        self._acts_BTD = self._prefix.values[hook.point]
        stream_NE = continue_to_head(subject, self._prefix).flatten(0, 1)
        logits_NV = torch.cat([head_logits(subject, part).float() for part in self._parts(stream_NE)])
        self._clean_NV = logits_NV.log_softmax(dim=-1)
        self._chance_NV = self._clean_NV.exp()

    @property
    def norm(self) -> float:
        """Mean norm of the activations."""
        return float(self._acts_BTD.float().norm(dim=-1).mean())

    @torch.no_grad()
    def of(self, push_PD: Tensor) -> list[float]:
        """From the model's distributions to those with each push: the mean, in nats a token."""
        num_prompts, acts_BTD = len(self._acts_BTD), self._acts_BTD
        changed_PBTD = acts_BTD + push_PD.to(acts_BTD)[:, None, None]
        rows_R = torch.arange(num_prompts, device=acts_BTD.device).repeat(len(push_PD))
        stream_RTE = continue_to_head(self._subject, self._prefix, changed_PBTD.flatten(0, 1), rows_R)
        return [self._change(stream_BTE.flatten(0, 1)) for stream_BTE in torch.split(stream_RTE, num_prompts)]

    def _change(self, stream_NE: Tensor) -> float:
        total, start = 0.0, 0
        for part in self._parts(stream_NE):
            pushed_NV, stop = head_logits(self._subject, part).float().log_softmax(dim=-1), start + len(part)
            # In place: tensors of this size cost more to allocate than to compute.
            apart_NV = pushed_NV.neg_().add_(self._clean_NV[start:stop]).mul_(self._chance_NV[start:stop])
            total += float(apart_NV.sum())
            start = stop
        return total / len(stream_NE)

    def _parts(self, stream_NE: Tensor) -> Sequence[Tensor]:
        return torch.split(stream_NE, max(_LOGITS // self._subject.vocab_size, 1))


@torch.no_grad()
def push_lengths(divergence: Divergence, unit_PD: Tensor, config: SteeringConfig) -> list[float | None]:
    """The length of each direction that changes predictions by the target; None where none does.

    Args:
        divergence: on the prompts.
        unit_PD: directions of length 1.
        config: the target, and how closely to look for it.
    """
    searches = [_search(divergence.norm, config) for _ in unit_PD]
    found: list[float | None] = [None] * len(searches)
    asked = {number: next(search) for number, search in enumerate(searches)}
    while asked:
        length_P1 = torch.tensor(list(asked.values()), device=unit_PD.device)[:, None]
        changes = divergence.of(unit_PD[list(asked)] * length_P1)
        for number, change in zip(list(asked), changes, strict=True):
            try:
                asked[number] = searches[number].send(change)
            except StopIteration as ended:
                found[number] = ended.value
                del asked[number]
    return found


def _search(norm: float, config: SteeringConfig) -> Generator[float, float, float | None]:
    """Asks for the change at one length after the other, and returns the one that comes close enough to the target.

    Whatever the activations' norm that it begins at, it bisects between two powers of two.
    """
    target = config.target_kl
    is_usable = math.isfinite(norm) and norm > 0
    high = 2.0 ** round(math.log2(min(max(norm, _SHORTEST), _LONGEST))) if is_usable else 1.0
    low = high / 2
    if (yield high) < target:
        low, high = high, 2 * high
        while high <= _LONGEST and (yield high) < target:
            low, high = high, 2 * high
        if high > _LONGEST:
            return None
    else:
        while low > _SHORTEST and (yield low) > target:
            low, high = low / 2, low
    for _ in range(config.search_steps):
        length = (low + high) / 2
        change = yield length
        if abs(change - target) <= _CLOSE_ENOUGH * target:
            break
        low, high = (length, high) if change < target else (low, length)
    return length
