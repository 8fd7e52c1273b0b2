"""Standard autoencoder: ReLU latents, held sparse by an L1 penalty.

    z = ReLU(W_enc x + b_enc),    loss = FVU + λ Σ_f z_f ‖W_dec_f‖

Bricken et al. 2023, "Towards Monosemanticity"; first weights and penalty as :mod:`mistudio.sae.l1` has them. Two
plain forms of the penalty are selectable: ``sum``, ‖x - x̂‖² + λ ‖z‖₁, and ``mean``, MSE + λ mean |z|; both count here
as fractions of the variance, and hold decoder directions at unit norm.

Dead latents start anew in directions of badly reconstructed tokens (:mod:`mistudio.sae.revival`); or in random ones; or
get ghost gradients (Jermyn and Templeton 2024, "Ghost grads"): through exp of their pre-activations they model what the
live ones missed.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.sae.autoencoder import ExportForm
from mistudio.sae.config import StandardConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.l1 import L1Autoencoder, L1Training
from mistudio.sae.revival import resample
from mistudio.sae.training import Losses, Stage


class StandardAutoencoder(L1Autoencoder):
    """See the module's docstring."""

    Config = StandardConfig
    config: StandardConfig
    export_form = ExportForm("thresholds", {"saelens": "standard", "dictionary_learning": "AutoEncoderNew"})

    def for_training(self) -> "StandardTraining":
        """What trains these weights."""
        return StandardTraining(self)


class StandardTraining(L1Training):
    """See the module's docstring."""

    sae: StandardAutoencoder

    @property
    def has_unit_norm(self) -> bool:
        """With plain L1 the decoder's norms must be held: else latents would shrink and rows grow."""
        return self.sae.config.penalty != "decoder_norm"

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """Fraction of variance unexplained, plus the weighted L1 norm."""
        pre_TF = self._preactivations(x_TD)
        pattern = ActivePattern.of_mask(pre_TF > 0)
        values_A = torch.relu(self._active(pre_TF, x_TD, pattern))
        error_TE = y_TE - self._rebuild(values_A, pattern, x_TD)
        fvu = self._fvu(error_TE)
        l1 = self._l1(pattern, values_A)
        objective = fvu + self.weight.at(stage.progress) * l1
        fired_F = pattern.sum_by_feature((values_A.detach() > 0).to(x_TD.dtype))
        parts = {
            "fvu": fvu.detach(),
            "l0": self._l0(fired_F, x_TD),
            "l1": l1.detach(),
            "penalty_weight": self.weight.log_weight.exp(),
        }
        total = objective
        if self.sae.config.revival == "ghost" and stage.dead_F is not None:
            total = objective + self._ghost_loss(x_TD, error_TE, stage.dead_F)
        return Losses(total, objective.detach(), parts, fired_F)

    @torch.no_grad()
    def revive(self, dead_F: Tensor, x_TD: Tensor, y_TE: Tensor, generator: torch.Generator) -> Tensor:
        """Give silent latents new directions: those of badly reconstructed tokens, or random ones."""
        if self.sae.config.revival == "resample":
            resample(self, dead_F, x_TD, y_TE, generator)
        elif self.sae.config.revival == "reinitialise":
            self._reinitialise(dead_F, x_TD, generator)
        else:
            return torch.zeros_like(dead_F)
        return dead_F

    def _l1(self, pattern: ActivePattern, values_A: Tensor) -> Tensor:
        """The penalty, mean over tokens."""
        if self.sae.config.penalty == "decoder_norm":
            return self._weighted_l1(values_A, pattern)
        per_token: Tensor = self.latents.total(values_A.sum()) / pattern.num_tokens
        return per_token / (self.sae.d_out if self.sae.config.penalty == "sum" else self.sae.width)

    def _ghost_loss(self, x_TD: Tensor, error_TE: Tensor, dead_F: Tensor) -> Tensor:
        """What exp of the dead latents' pre-activations misses of the error, scaled to half of its size."""
        missed_TE = error_TE.detach()
        ghosts_TF = torch.exp(functional.linear(x_TD, self.sae.W_enc[dead_F], self.sae.b_enc[dead_F]).clamp(max=10))
        out_TE = self.latents.total(ghosts_TF @ self.sae.W_dec[dead_F])
        norms_T1 = missed_TE.norm(dim=1, keepdim=True) / (2 * out_TE.norm(dim=1, keepdim=True).clamp(min=1e-8))
        ghost = (out_TE * norms_T1.detach() - missed_TE).square().mean()
        error = self.batch.mean(missed_TE.square().mean(), len(x_TD))
        size = self.batch.mean(ghost.detach(), len(x_TD))
        # As large as the reconstruction's own loss, whatever the stage of training.
        scaled: Tensor = ghost / size.clamp(min=1e-12) * error / self.target_variance
        return scaled

    def _reinitialise(self, dead_F: Tensor, x_TD: Tensor, generator: torch.Generator) -> None:
        sae = self.sae
        fresh_FD = torch.empty(sae.width, sae.d_in)
        nn.init.xavier_uniform_(fresh_FD, generator=generator)
        fresh_FD = self.latents.block(fresh_FD).to(sae.W_enc)
        sae.W_enc.copy_(torch.where(dead_F[:, None], fresh_FD, sae.W_enc))
        if sae.d_in == sae.d_out:
            rows_FE = functional.normalize(fresh_FD, dim=1) if self.has_unit_norm else fresh_FD
            sae.W_dec.copy_(torch.where(dead_F[:, None], rows_FE, sae.W_dec))
        fresh_bias_F = sae.config.encoder_bias - fresh_FD @ x_TD.mean(dim=0)
        sae.b_enc.copy_(torch.where(dead_F, fresh_bias_F, sae.b_enc))
