"""The losses of each architecture, written out with dense matrices; autograd does the rest.

Shape legend: T tokens, D and E widths of input and output, F features (latents).
"""

from typing import Any

import torch
from torch import Tensor

from mistudio.sae import ArchitectureConfig, SAETraining, architecture_config


def small_config(name: str, width: int = 64, **settings: Any) -> ArchitectureConfig:
    """A configuration of the architecture with little else than defaults."""
    kind = architecture_config(name)
    sparsity = {"k": 5} if kind.l0_setting == "k" else {}
    return kind.model_validate({"width": width, **sparsity, **settings})


def naive_total(
    training: SAETraining, x_TD: Tensor, y_TE: Tensor, progress: float, is_dead_F: Tensor | None = None
) -> Tensor:
    """What a step minimises; with which latents are dead as booleans, also what brings them back."""
    sae = training.sae
    pre_TF = x_TD @ sae.W_enc.T + sae.b_enc
    name = sae.config.architecture
    total = _TOTALS[name](training, pre_TF, x_TD, y_TE, progress)
    if is_dead_F is not None and name in _OF_THE_DEAD:
        total = total + _OF_THE_DEAD[name](training, pre_TF, x_TD, y_TE, is_dead_F)
    return total


def _fvu(training: SAETraining, acts_TF: Tensor, x_TD: Tensor, y_TE: Tensor) -> Tensor:
    return (y_TE - training.sae.decode(acts_TF, x_TD)).square().mean() / training.target_variance


def _kept(pre_TF: Tensor, k: int) -> Tensor:
    top = pre_TF.topk(k, dim=1)
    return torch.zeros_like(pre_TF).scatter(1, top.indices, top.values.relu())


def _topk(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, progress: float) -> Tensor:
    total = _fvu(training, _kept(pre_TF, training.sae.config.k), x_TD, y_TE)
    wide = _fvu(training, _kept(pre_TF, 4 * training.sae.config.k), x_TD, y_TE)
    return total + training.sae.config.multi_k_coefficient * wide


def _batch_kept(training: Any, pre_TF: Tensor) -> Tensor:
    flat = pre_TF.relu().flatten().topk(training.sae.config.k * len(pre_TF))
    return torch.zeros(pre_TF.numel(), dtype=pre_TF.dtype).scatter(0, flat.indices, flat.values).view_as(pre_TF)


def _batchtopk(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, progress: float) -> Tensor:
    return _fvu(training, _batch_kept(training, pre_TF), x_TD, y_TE)


def _matryoshka(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, progress: float) -> Tensor:
    acts_TF = _batch_kept(training, pre_TF)
    columns = torch.arange(acts_TF.shape[1])
    prefixes = [torch.where(columns < width, acts_TF, 0) for width in training.sae.config.nested_widths]
    return torch.stack([_fvu(training, part_TF, x_TD, y_TE) for part_TF in prefixes]).mean()


def _ramp(training: Any, progress: float) -> Tensor:
    return training.weight.log_weight.exp() * min(progress / training.sae.config.penalty_warmup_fraction, 1.0)


def _standard(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, progress: float) -> Tensor:
    acts_TF = pre_TF.relu()
    l1 = {
        "decoder_norm": (acts_TF * training.sae.W_dec.norm(dim=1)).sum(dim=1).mean(),
        "sum": acts_TF.sum(dim=1).mean() / y_TE.shape[1],
        "mean": acts_TF.mean(),
    }[training.sae.config.penalty]
    return _fvu(training, acts_TF, x_TD, y_TE) + _ramp(training, progress) * l1


def _gated(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, progress: float) -> Tensor:
    magnitude_TF = (training.sae.r_mag.exp() * (x_TD @ training.sae.W_enc.T) + training.sae.b_mag).relu()
    acts_TF = (pre_TF > 0) * magnitude_TF
    gate_TF = pre_TF.relu()
    l1 = (gate_TF * training.sae.W_dec.norm(dim=1)).sum(dim=1).mean()
    return _fvu(training, acts_TF, x_TD, y_TE) + _ramp(training, progress) * l1 + _fvu(training, gate_TF, x_TD, y_TE)


class _Window(torch.autograd.Function):
    """H(pre - θ) with the rectangular window as the derivative in θ, none in pre."""

    @staticmethod
    def forward(ctx: Any, pre_TF: Tensor, threshold_F: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_TF, threshold_F)
        ctx.bandwidth = bandwidth
        return (pre_TF > threshold_F).to(pre_TF.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre_TF, threshold_F = ctx.saved_tensors
        window_TF = ((pre_TF - threshold_F).abs() < ctx.bandwidth / 2).to(pre_TF.dtype) / ctx.bandwidth
        return None, -(window_TF * grads[0]).sum(dim=0), None


def _jumprelu(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, progress: float) -> Tensor:
    config = training.sae.config
    threshold_F = training.sae.log_threshold.exp()
    step_TF = _Window.apply(pre_TF, threshold_F, config.bandwidth)
    # z = pre H(pre - θ): the window multiplies by pre where it should by θ, so it is applied to θ apart.
    through_TF = threshold_F.detach() * (step_TF - step_TF.detach())
    acts_TF = pre_TF * step_TF.detach() + through_TF
    penalty_TF = step_TF if config.penalty == "l0" else torch.tanh(config.tanh_scale * acts_TF)
    return _fvu(training, acts_TF, x_TD, y_TE) + _ramp(training, progress) * penalty_TF.sum(dim=1).mean()


def _drawn_to_missed(
    training: Any, pre_TF: Tensor, acts_TF: Tensor, x_TD: Tensor, y_TE: Tensor, is_dead_F: Tensor
) -> Tensor:
    """AuxK, whose error is a share of the first one, and how far the dead lie below zero, mean over all pairs."""
    missed_TE = (y_TE - training.sae.decode(acts_TF, x_TD)).detach()
    k = min(training.sae.config.aux_k or y_TE.shape[1] // 2, int(is_dead_F.sum()))
    aux_TF = _kept(torch.where(is_dead_F, pre_TF, -torch.inf), k)
    auxiliary = (missed_TE - aux_TF @ training.sae.W_dec).square().sum() / missed_TE.square().sum()
    pull = -(pre_TF * is_dead_F).sum() / (len(pre_TF) * is_dead_F.sum())
    return training.sae.config.aux_coefficient * (auxiliary + pull)


def _dead_topk(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, is_dead_F: Tensor) -> Tensor:
    return _drawn_to_missed(training, pre_TF, _kept(pre_TF, training.sae.config.k), x_TD, y_TE, is_dead_F)


def _dead_batchtopk(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, is_dead_F: Tensor) -> Tensor:
    return _drawn_to_missed(training, pre_TF, _batch_kept(training, pre_TF), x_TD, y_TE, is_dead_F)


def _dead_standard(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, is_dead_F: Tensor) -> Tensor:
    """Ghosts made half as long as what is missed of a token; their loss is then made as large as what is missed."""
    if training.sae.config.revival != "ghost":
        return pre_TF.new_zeros(())
    missed_TE = (y_TE - training.sae.decode(pre_TF.relu(), x_TD)).detach()
    ghosts_TE = (torch.where(pre_TF > 10, 10, pre_TF).exp() * is_dead_F) @ training.sae.W_dec
    half_T = 0.5 * (missed_TE.square().sum(dim=1) / ghosts_TE.square().sum(dim=1)).sqrt()
    left = (ghosts_TE * half_T.detach()[:, None] - missed_TE).square().mean()
    return left * (missed_TE.square().mean() / left).detach() / training.target_variance


def _dead_jumprelu(training: Any, pre_TF: Tensor, x_TD: Tensor, y_TE: Tensor, is_dead_F: Tensor) -> Tensor:
    below_TF = (training.sae.log_threshold.exp() - pre_TF).relu() * is_dead_F
    return training.sae.config.pre_activation_coefficient * below_TF.sum(dim=1).mean()


_TOTALS = {
    "topk": _topk,
    "batchtopk": _batchtopk,
    "matryoshka": _matryoshka,
    "standard": _standard,
    "gated": _gated,
    "jumprelu": _jumprelu,
}
_OF_THE_DEAD = {
    "topk": _dead_topk,
    "batchtopk": _dead_batchtopk,
    "matryoshka": _dead_batchtopk,
    "standard": _dead_standard,
    "jumprelu": _dead_jumprelu,
}
