"""A whole batch, and its gradients and losses, from the parts of it and the processes that share it.

Shape legend: F features (latents).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from mistudio.sae import Losses, SAETraining, Workers
from mistudio.train.scaling import Rows


def of_first(rows: Rows, workers: Workers) -> Rows:
    """The rows as the first process has them: where each computed them, they may differ by rounding."""
    if isinstance(rows, Tensor):
        return workers.from_first(rows)
    return workers.from_first(rows[0]), workers.from_first(rows[1])


def sum_of_parts(summed: list[Losses]) -> Losses:
    """The losses of a batch from those of its parts, which are weighted by their size already."""
    if len(summed) == 1:
        return summed[0]
    parts = {name: torch.stack([each.parts[name] for each in summed]).sum() for name in summed[0].parts}
    return Losses(
        torch.stack([each.total for each in summed]).sum(),
        torch.stack([each.objective for each in summed]).sum(),
        parts,
        torch.stack([each.fired_F for each in summed]).sum(dim=0),
    )


def sum_of_shares(training: SAETraining, own: Losses) -> Losses:
    """The losses of a batch from those of this process's share, weighted likewise; so too the gradients.

    Raises:
        WorkerFailed: another process cannot go on.
        WorkerOutOfMemory: another process has no gradients, for lack of memory.
    """
    if training.batch.size == 1:
        training.workers.agree()
        return own
    sums = torch.cat([torch.stack([own.total, own.objective, *own.parts.values()]), own.fired_F])
    training.batch.sum_all(
        [sums, *(parameter.grad for parameter in training.parameters() if parameter.grad is not None)]
    )
    scalars, fired_F = sums.split([2 + len(own.parts), len(own.fired_F)])  # type: ignore[no-untyped-call]
    total, objective, *parts = scalars
    return Losses(total, objective, dict(zip(own.parts, parts, strict=True)), fired_F)


def clip_gradients(training: SAETraining, parameters: Mapping[str, nn.Parameter], largest: float) -> None:
    """Scale the gradients so that their norm, over the latents of all processes, is at most ``largest``."""
    if training.latents.size == 1:
        clip_grad_norm_(parameters.values(), largest, foreach=True)
        return
    here: list[Tensor] = []
    everywhere: list[Tensor] = []
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            (here if name in training.names_by_latent() else everywhere).append(parameter.grad)
    of_here, of_everywhere = (get_total_norm(part, foreach=True) for part in (here, everywhere))
    norm = (training.latents.total(of_here.square()) + of_everywhere.square()).sqrt()
    clip_grads_with_norm_(parameters.values(), largest, norm, foreach=True)
