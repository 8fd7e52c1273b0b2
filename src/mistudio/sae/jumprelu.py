"""JumpReLU autoencoder: a latent is active above a threshold of its own, and then in full.

    z = pre · H(pre - θ),    loss = FVU + λ Σ_f H(pre_f - θ_f)

Rajamanoharan et al. 2024, "Jumping ahead" (arXiv:2407.14435). Neither the step nor the jump has a useful
gradient in θ: straight-through estimators take that of a window of width ε around the threshold,
∂z/∂θ = -(θ / ε) 1[|pre - θ| < ε / 2] and ∂H/∂θ = -(1 / ε) 1[|pre - θ| < ε / 2]. The other penalty is
Σ_f tanh(c z_f) (Anthropic, "Circuits updates", January 2025), with gradients through z. Dead latents' pre-activations
are drawn up to the threshold: Σ over dead f of ReLU(θ_f - pre_f); and they are resampled
(:mod:`mistudio.sae.revival`).

Shape legend: T tokens, D and E widths of input and output, F features (latents), N dead ones, A pairs that
are active or in the window.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.sae.autoencoder import ExportForm, ThresholdedAutoencoder
from mistudio.sae.config import JumpReLUConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.penalty import PenaltyWeight, starting_cut
from mistudio.sae.revival import live_mean, resample
from mistudio.sae.training import Losses, SAETraining, Stage

# Also without a learning rate the target is held: all thresholds rise or fall together by so much of the logarithm of
# how far off the L0 is.
_NUDGE = 0.03


class _Jump(torch.autograd.Function):
    """The activation and the step of pre-activations over thresholds, with straight-through gradients."""

    @staticmethod
    def forward(ctx: Any, pre_A: Tensor, threshold_A: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pre_A, threshold_A)
        ctx.bandwidth = bandwidth
        step_A = (pre_A > threshold_A).to(pre_A.dtype)
        return pre_A * step_A, step_A

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        pre_A, threshold_A = ctx.saved_tensors
        grad_value_A, grad_step_A = grads
        window_A = ((pre_A - threshold_A).abs() < ctx.bandwidth / 2).to(pre_A.dtype) / ctx.bandwidth
        grad_threshold_A = -window_A * (grad_value_A * threshold_A + grad_step_A)
        return grad_value_A * (pre_A > threshold_A), grad_threshold_A, None


class JumpReLUAutoencoder(ThresholdedAutoencoder):
    """See the module's docstring."""

    Config = JumpReLUConfig
    config: JumpReLUConfig
    own_weights = ("log_threshold",)
    export_form = ExportForm("thresholds")

    def __init__(self, config: JumpReLUConfig, d_in: int, d_out: int | None = None) -> None:
        super().__init__(config, d_in, d_out)
        self.log_threshold = nn.Parameter(torch.full((config.width,), math.log(config.initial_threshold)))

    def for_training(self) -> "JumpReLUTraining":
        """What trains these weights."""
        return JumpReLUTraining(self)

    @property
    def threshold_F(self) -> Tensor:
        """Each latent's threshold."""
        return self.log_threshold.exp()


class JumpReLUTraining(SAETraining):
    """See the module's docstring."""

    sae: JumpReLUAutoencoder
    shares_latents = True

    def __init__(self, sae: JumpReLUAutoencoder) -> None:
        super().__init__(sae)
        config = sae.config
        self.weight = PenaltyWeight(config.l0_coefficient, config.target_l0, config.penalty_warmup_fraction)

    @property
    def ramp_fraction(self) -> float:
        """The penalty's weight rises for so long."""
        return self.sae.config.penalty_warmup_fraction

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator, b_dec_E: Tensor | None = None) -> None:
        """As all, with thresholds that leave a few times the target active, if there is a target."""
        super().initialise(sample_TD, generator, b_dec_E)
        if self.sae.config.target_l0 is not None:
            cut = starting_cut(self.sae, sample_TD, self.sae.config.target_l0)
            self.sae.log_threshold.fill_(math.log(max(cut, self.sae.config.initial_threshold)))

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """Fraction of variance unexplained, plus the penalties."""
        config = self.sae.config
        pre_TF = self._preactivations(x_TD)
        threshold_F = self.sae.threshold_F
        cut_F = threshold_F.detach() - config.bandwidth / 2
        pattern = ActivePattern.of_mask(pre_TF > cut_F.to(pre_TF.dtype))
        threshold_A = functional.embedding(pattern.feature_A, threshold_F[:, None]).squeeze(1)
        pre_A = self._active(pre_TF, x_TD, pattern)
        values_A, step_A = _Jump.apply(pre_A, threshold_A, config.bandwidth)  # type: ignore[no-untyped-call]
        error_TE = y_TE - self._rebuild(values_A, pattern, x_TD)
        fvu = self._fvu(error_TE)
        counted_A = step_A if config.penalty == "l0" else torch.tanh(config.tanh_scale * values_A)
        penalty = self.latents.total(counted_A.sum()) / len(x_TD)
        objective = fvu + self.weight.at(stage.progress) * penalty
        fired_F = pattern.sum_by_feature(step_A.detach())
        parts = {
            "fvu": fvu.detach(),
            "l0": self._l0(fired_F, x_TD),
            "penalty_weight": self.weight.log_weight.exp(),
        }
        total = objective
        if config.pre_activation_coefficient and stage.dead_F is not None:
            drawn_up = self._drawn_up(x_TD, pattern, step_A > 0, stage.dead_F)
            total = objective + config.pre_activation_coefficient * drawn_up
        return Losses(total, objective.detach(), parts, fired_F)

    @torch.no_grad()
    def after_step(self, parts: dict[str, Tensor], progress: float) -> None:
        """Also steer the penalty's weight, and the thresholds, which the weight cannot move in the final decay."""
        super().after_step(parts, progress)
        self.sae.log_threshold.add_(self.weight.adapt(parts["l0"], progress), alpha=_NUDGE)

    @torch.no_grad()
    def revive(self, dead_F: Tensor, x_TD: Tensor, y_TE: Tensor, generator: torch.Generator) -> Tensor:
        """Point silent latents at what is missed, with the mean threshold (of the logarithms) of the others."""
        if self.sae.config.revival == "none":
            return torch.zeros_like(dead_F)
        resample(self, dead_F, x_TD, y_TE, generator, encoder_share=1.0)  # there is a threshold to pass
        threshold = live_mean(self, self.sae.log_threshold, dead_F, math.log(self.sae.config.initial_threshold))
        self.sae.log_threshold.masked_fill_(dead_F, threshold)
        return dead_F

    def fold_own(self, scale: float, shift_F: Tensor) -> None:
        """Thresholds count in the latents' units, and are compared with pre-activations that keep their shift."""
        self.sae.log_threshold.add_(math.log(scale))

    def _drawn_up(self, x_TD: Tensor, pattern: ActivePattern, above_A: Tensor, dead_F: Tensor) -> Tensor:
        """How far dead latents stay below their thresholds, mean over tokens.

        Which pairs are below is known, and over these θ - pre is linear: it needs their number and the sum of their
        tokens, which are those of the whole batch without the few on which a latent counted as dead is active.

        Args:
            x_TD: inputs.
            pattern: holds every pair above its threshold.
            above_A: which pairs of it are.
            dead_F: indices of the dead latents; this process may have none.
        """
        is_dead_F = torch.zeros_like(self.sae.b_enc, dtype=torch.bool).index_fill_(0, dead_F, value=True)
        active = pattern.subset(above_A & is_dead_F.index_select(0, pattern.feature_A))
        ones_A = x_TD.new_ones(len(active.feature_A))
        below_N = len(x_TD) - active.sum_by_feature(ones_A)[dead_F]
        sums_ND = x_TD.sum(dim=0) - active.weighted_tokens(ones_A, x_TD).index_select(0, dead_F)
        gaps_N = self.sae.threshold_F[dead_F] - self.sae.b_enc[dead_F]
        total = (gaps_N * below_N).sum() - (self.sae.W_enc.index_select(0, dead_F) * sums_ND).sum()
        return self.latents.total(total) / len(x_TD)
