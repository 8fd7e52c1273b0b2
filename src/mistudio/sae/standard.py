"""Standard autoencoder: ReLU latents, held sparse by an L1 penalty.

    z = ReLU(W_enc x + b_enc),    x̂ = W_dec z + b_dec,    loss = MSE + λ Σ z_f ‖W_dec_f‖

Bricken et al. 2023, "Towards Monosemanticity"; the penalty is weighted by the decoder norms (Conerly et
al. 2024, "Update on how we train SAEs"), so that shrinking latents while growing decoder rows gains
nothing. Initialisation: Xavier-uniform encoder, small negative encoder bias, decoder tied to the encoder.
Latents that stay silent are started anew in the same way.

Shape legend: T tokens, D model width, F features (latents).
"""

import torch
from torch import Tensor, nn

from mistudio.sae.base import ActiveLatents, Losses, SparseAutoencoder
from mistudio.sae.config import StandardConfig


class StandardAutoencoder(SparseAutoencoder):
    """See the module's docstring."""

    config: StandardConfig

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator) -> None:
        """Xavier-uniform encoder, tied decoder, and biases that centre the data first."""
        nn.init.xavier_uniform_(self.W_enc, generator=generator)
        self.W_dec.copy_(self.W_enc)
        self.b_dec.copy_(sample_TD.mean(dim=0))
        self.b_enc.copy_(self.config.encoder_bias - self.W_enc @ self.b_dec)

    @property
    def ramp_fraction(self) -> float:
        """The penalty's weight rises for so long."""
        return self.config.l1_warmup_fraction

    def _encode_block(self, x_TD: Tensor) -> ActiveLatents:
        pre_TF = nn.functional.linear(x_TD, self.W_enc, self.b_enc)
        token_A, feature_A = torch.nonzero(pre_TF > 0, as_tuple=True)
        return ActiveLatents(token_A, feature_A, pre_TF[token_A, feature_A])

    def losses(self, x_TD: Tensor, dead_F: Tensor, progress: float) -> Losses:
        """Fraction of variance unexplained, plus the weighted L1 norm."""
        acts_TF = torch.relu(nn.functional.linear(x_TD, self.W_enc, self.b_enc))
        fvu = (x_TD - self.decode(acts_TF)).square().mean()  # activations have unit variance per dimension here
        sums_F = acts_TF.sum(dim=0)
        l1 = (sums_F @ self.W_dec.norm(dim=1)) / len(x_TD)
        warmup = self.config.l1_warmup_fraction
        weight = self.config.l1_coefficient * (min(progress / warmup, 1.0) if warmup else 1.0)
        total = fvu + weight * l1
        fired_F = acts_TF.detach().sign().sum(dim=0)
        parts = {"fvu": fvu.detach(), "l0": fired_F.sum() / len(x_TD), "l1": l1.detach()}
        return Losses(total, total.detach(), parts, fired_F)

    @torch.no_grad()
    def revive(self, dead_F: Tensor, generator: torch.Generator) -> Tensor:
        """Give silent latents new random directions, as at the start."""
        fresh_FD = torch.empty(self.width, self.d_in)
        nn.init.xavier_uniform_(fresh_FD, generator=generator)
        fresh_FD = fresh_FD.to(self.W_enc.device)
        self.W_enc.copy_(torch.where(dead_F[:, None], fresh_FD, self.W_enc))
        self.W_dec.copy_(torch.where(dead_F[:, None], fresh_FD, self.W_dec))
        fresh_bias_F = self.config.encoder_bias - fresh_FD @ self.b_dec
        self.b_enc.copy_(torch.where(dead_F, fresh_bias_F, self.b_enc))
        return dead_F
