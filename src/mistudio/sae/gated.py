"""Gated autoencoder: one path decides which latents are active, another how much.

    gate = W_enc x + b_enc,    z = 1[gate > 0] · ReLU(exp(r_mag) · W_enc x + b_mag)
    loss = FVU(y, ŷ) + λ Σ_f ReLU(gate_f) ‖W_dec_f‖ + FVU(y, ReLU(gate) through the decoder)

Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders" (arXiv:2404.16014).
The penalty presses on the gates alone, so magnitudes do not shrink. The two paths share one encoder product. First
weights and penalty are those of :mod:`mistudio.sae.l1`; dead latents are resampled (:mod:`mistudio.sae.revival`).

The paper holds decoder directions at unit norm, and freezes the decoder in the last loss. Both cost quality here
(docs/concepts/architectures.md); with free norms that loss has to reach them, for it is what the penalty is weighed
against.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

import torch
from torch import Tensor, nn

from mistudio.sae.autoencoder import ExportForm
from mistudio.sae.config import GatedConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.l1 import L1Autoencoder, L1Training
from mistudio.sae.revival import resample
from mistudio.sae.training import Losses, Stage


class GatedAutoencoder(L1Autoencoder):
    """See the module's docstring."""

    Config = GatedConfig
    config: GatedConfig
    own_weights = ("r_mag", "b_mag")
    export_form = ExportForm("gated")

    def __init__(self, config: GatedConfig, d_in: int, d_out: int | None = None) -> None:
        super().__init__(config, d_in, d_out)
        self.r_mag = nn.Parameter(torch.zeros(config.width))
        self.b_mag = nn.Parameter(torch.zeros(config.width))

    def for_training(self) -> "GatedTraining":
        """What trains these weights."""
        return GatedTraining(self)

    def activate(self, pre_A: Tensor, feature_A: Tensor) -> Tensor:
        """The magnitudes, from the same product as the gates."""
        products_A = pre_A - self.b_enc[feature_A]
        return torch.relu(self.r_mag.exp()[feature_A] * products_A + self.b_mag[feature_A])


class GatedTraining(L1Training):
    """See the module's docstring."""

    sae: GatedAutoencoder

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """Fraction of variance unexplained, the gates' weighted L1 norm, and the reconstruction from the gates."""
        pre_TF = self._preactivations(x_TD)
        pattern = ActivePattern.of_mask(pre_TF > 0)
        feature_A = pattern.feature_A.long()
        pre_A = self._active(pre_TF, x_TD, pattern)
        values_A = self.sae.activate(pre_A, feature_A)
        error_TE = y_TE - self._rebuild(values_A, pattern, x_TD)
        fvu = self._fvu(error_TE)
        gate_A = torch.relu(pre_A)
        l1 = self._weighted_l1(gate_A, pattern)
        auxiliary = self._fvu(y_TE - self._rebuild(gate_A, pattern, x_TD))
        total = fvu + self.weight.at(stage.progress) * l1 + auxiliary
        fired_F = pattern.sum_by_feature((values_A.detach() > 0).to(x_TD.dtype))
        parts = {
            "fvu": fvu.detach(),
            "l0": self._l0(fired_F, x_TD),
            "l1": l1.detach(),
            "auxiliary": auxiliary.detach(),
            "penalty_weight": self.weight.log_weight.exp(),
        }
        return Losses(total, total.detach(), parts, fired_F)

    @torch.no_grad()
    def revive(self, dead_F: Tensor, x_TD: Tensor, y_TE: Tensor, generator: torch.Generator) -> Tensor:
        """Point silent latents at what is missed, with magnitudes as at the start."""
        if self.sae.config.revival == "none":
            return torch.zeros_like(dead_F)
        resample(self, dead_F, x_TD, y_TE, generator)
        self.sae.r_mag.masked_fill_(dead_F, 0.0)
        self.sae.b_mag.masked_fill_(dead_F, 0.0)
        return dead_F

    def fold_own(self, scale: float, shift_F: Tensor) -> None:
        """The magnitudes' bias counts in the latents' units, and the products in it contain the shift."""
        self.sae.b_mag.mul_(scale).sub_(self.sae.r_mag.exp() * shift_F)
