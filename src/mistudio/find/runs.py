"""Runs of the model over passages: once as far as the hook, and on from there as often as something is changed.

Shape legend: B passages of a batch, T tokens, D width of the hook point it reads, E of the one it writes, R runs from
the hook on, H width of what the output head reads, N predictions.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.find.reading import BATCH_TOKENS, LOGIT_BYTES, Batch, HookedSubject
from mistudio.instrument.resume import Prefix, continue_to_head, head_logits, run_to


class Change(NamedTuple):
    """What is taken away in some runs: in each a multiple of one direction on every token."""

    passage_R: Tensor  # what each goes on from, on the CPU
    times_RT: Tensor
    direction_RE: Tensor
    asked_RT: Tensor  # predictions whose loss is wanted [R, T - 1], on the CPU


def run_to_hook(hooked: HookedSubject, batch: Batch) -> Prefix:
    """Run passages as far as the hook point that the autoencoder writes, past the one it reads."""
    return run_to(hooked.subject, [hooked.ends.read, hooked.ends.write], batch.ids, batch.mask)


def losses_from(hooked: HookedSubject, prefix: Prefix, change: Change) -> Tensor:
    """Cross-entropy of each next token [R, T - 1] that is asked for, in nats, on the CPU; NaN of all others."""
    at_once = max(BATCH_TOKENS // prefix.ids_BT.shape[1], 1)
    starts = range(0, len(change.passage_R), at_once)
    parts = [Change._make(each[first : first + at_once] for each in change) for first in starts]
    return torch.cat([_losses(hooked, prefix, part) for part in parts])


def _losses(hooked: HookedSubject, prefix: Prefix, change: Change) -> Tensor:
    losses_RT = torch.full(change.asked_RT.shape, torch.nan)
    if not change.asked_RT.any():
        return losses_RT
    value_BTE = prefix.values[prefix.hook.point]
    part_RTE = change.times_RT.to(value_BTE.device)[..., None] * change.direction_RE.to(value_BTE.device)[:, None]
    changed_RTE = value_BTE[change.passage_R.to(value_BTE.device)] - part_RTE.to(value_BTE)
    stream_RTH = continue_to_head(hooked.subject, prefix, changed_RTE, change.passage_R)
    answer_RT = prefix.ids_BT[:, 1:].cpu()[change.passage_R]
    asked_NH = stream_RTH[:, :-1][change.asked_RT.to(stream_RTH.device)]
    losses_RT[change.asked_RT] = _losses_of(hooked, asked_NH, answer_RT[change.asked_RT])
    return losses_RT


def _losses_of(hooked: HookedSubject, stream_NH: Tensor, answer_N: Tensor) -> Tensor:
    """Cross-entropy of some predictions [N]; logits of few are held at a time."""
    at_once = max(LOGIT_BYTES // (4 * hooked.subject.vocab_size), 1)
    losses = []
    for some_NH, some_N in zip(torch.split(stream_NH, at_once), torch.split(answer_N, at_once), strict=True):
        logits_NV = head_logits(hooked.subject, some_NH).float()
        losses.append(functional.cross_entropy(logits_NV, some_N.to(logits_NV.device), reduction="none").cpu())
    return torch.cat(losses)
