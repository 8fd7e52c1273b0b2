"""How far predictions move when a vector is added to activations, and how much of it moves them by a given amount.

Sequences are run to the hook point once; each amount that is tried goes on from there.

Shape legend: B sequences, T tokens, D width of the hook point, N predictions, E width of what the output head reads,
V vocabulary, C sets of tokens.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.errors import InputError
from mistudio.instrument.resume import continue_to_head, head_logits, run_to
from mistudio.subject import ResolvedHook, Subject

_LOGITS_AT_ONCE = 1 << 23
_MOST_TRIALS = 60
_LONGEST_STEP, _LEAST_STEP = 8.0, 1.5  # ratios
_CLOSE_ENOUGH = 0.03  # of the target


class Moved(NamedTuple):
    """What adding a vector did."""

    kl: float  # from the model's own predictions to those with the vector, mean in nats
    dose: float  # length of what was added over the activation's, mean over the tokens where it was


class Divergence:
    """Compares predictions with and without a vector at a hook point.

    Args:
        subject: the model.
        hook: where the vector is added.
        ids_BT: sequences of one length.
        on_BT: tokens to which it is added.
        behind: predictions that are compared: those of all tokens from this place on.
    """

    @torch.no_grad()
    def __init__(self, subject: Subject, hook: ResolvedHook, ids_BT: Tensor, on_BT: Tensor, behind: int = 1) -> None:
        if not 1 <= behind < ids_BT.shape[1]:
            message = f"Of sequences of {ids_BT.shape[1]} tokens none is predicted from place {behind} on."
            raise InputError(message)
        self._subject, self._behind = subject, behind
        self._prefix = run_to(subject, [hook], ids_BT.to(subject.device))
        self._acts_BTD = self._prefix.values[hook.point]
        self._on_BT1 = on_BT[..., None].to(self._acts_BTD.device)
        self._clean_NE = self._measured(continue_to_head(subject, self._prefix))

    @torch.no_grad()
    def of(self, push_D: Tensor) -> Moved:
        """What adding a vector does."""
        size_M = self._acts_BTD.float().norm(dim=-1)[self._on_BT1[..., 0]]
        dose = float((push_D.float().norm().to(size_M) / size_M.clamp(min=1e-12)).mean()) if len(size_M) else 0.0
        return Moved(self._kl(self._pushed(push_D)), dose)

    @torch.no_grad()
    def probability(self, tokens_CV: Tensor, push_D: Tensor | None = None) -> Tensor:
        """The mean probability of sets of tokens [C], without a vector or with one.

        Args:
            tokens_CV: 1 for each token of a set, else 0.
            push_D: the vector.
        """
        measured_NE = self._clean_NE if push_D is None else self._pushed(push_D)
        weight_VC = tokens_CV.to(measured_NE.device, torch.float32).T
        sums = [
            (head_logits(self._subject, part).float().softmax(dim=-1) @ weight_VC).sum(dim=0)
            for part in torch.split(measured_NE, self._at_once)
        ]
        return torch.stack(sums).sum(dim=0) / len(measured_NE)

    @property
    def _at_once(self) -> int:
        return max(_LOGITS_AT_ONCE // self._subject.vocab_size, 1)

    def _pushed(self, push_D: Tensor) -> Tensor:
        acts_BTD = self._acts_BTD
        changed_BTD = acts_BTD + (push_D.to(acts_BTD) * self._on_BT1).to(acts_BTD)
        return self._measured(continue_to_head(self._subject, self._prefix, changed_BTD))

    def _measured(self, stream_BTE: Tensor) -> Tensor:
        return stream_BTE[:, self._behind - 1 : -1].flatten(0, 1)

    def _kl(self, pushed_NE: Tensor) -> float:
        total = 0.0
        parts = (torch.split(each, self._at_once) for each in (self._clean_NE, pushed_NE))
        for clean, pushed in zip(*parts, strict=True):
            clean_NV, pushed_NV = (
                head_logits(self._subject, each).float().log_softmax(dim=-1) for each in (clean, pushed)
            )
            total += float((clean_NV.exp() * (clean_NV - pushed_NV)).sum())
        return max(total / len(pushed_NE), 0.0)


def amount_for(
    divergence: Divergence, vector_D: Tensor, target: float, start: float = 1.0
) -> tuple[float, Moved] | None:
    """How much of a vector moves predictions by ``target`` nats, and what it does; None where no amount does.

    For small amounts the divergence grows as their square, which says where to look next; where that leaves what is
    known to be too little or too much, the middle of these is tried.

    Args:
        divergence: what is moved.
        vector_D: by what.
        target: mean nats of a prediction.
        start: the amount that is tried first.
    """
    if not float(vector_D.norm()) > 0:
        return None
    low, high, amount = 0.0, math.inf, start
    for _ in range(_MOST_TRIALS):
        found = divergence.of(vector_D * amount)
        if abs(found.kl - target) <= _CLOSE_ENOUGH * target:
            return amount, found
        low, high = (amount, high) if found.kl < target else (low, amount)
        step = math.sqrt(target / found.kl) if found.kl > 0 else _LONGEST_STEP
        guess = amount * min(max(step, 1 / _LONGEST_STEP), _LONGEST_STEP)
        if math.isinf(high):
            amount = max(guess, _LEAST_STEP * amount)  # it may be that it grows no further
        else:
            amount = guess if low < guess < high else math.sqrt(low * high) if low else high / 2
    return None
