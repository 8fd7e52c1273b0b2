"""What autoencoders with ReLU latents under an L1 penalty share.

They start from a Xavier-uniform encoder with a small negative bias and a decoder tied to it, so that few latents are
active and none is strong. The penalty is weighted by the decoder norms (Conerly et al. 2024, "Update on how we train
SAEs"), so that shrinking latents while growing decoder rows gains nothing, and the norms are free.

A target L0 is also held by the encoder's biases, which rise or fall together once the penalty has its full weight.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.sae.base import SparseAutoencoder
from mistudio.sae.config import GatedConfig, StandardConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.penalty import PenaltyWeight, starting_cut

# Of the logarithm of how far off the L0 is, by which the biases move in a step.
_NUDGE = 0.01


class L1Autoencoder(SparseAutoencoder):
    """See the module's docstring."""

    config: StandardConfig | GatedConfig
    shares_latents = True

    def __init__(self, config: StandardConfig | GatedConfig, d_in: int, d_out: int | None = None) -> None:
        super().__init__(config, d_in, d_out)
        self.weight = PenaltyWeight(config.l1_coefficient, config.target_l0, config.penalty_warmup_fraction)

    @property
    def has_unit_norm(self) -> bool:
        """The penalty counts the decoder's norms: they are free."""
        return False

    @property
    def ramp_fraction(self) -> float:
        """The penalty's weight rises for so long."""
        return self.config.penalty_warmup_fraction

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator, b_dec_E: Tensor | None = None) -> None:
        """Xavier-uniform encoder, tied decoder, negative encoder bias: a small one, or what a target asks for."""
        super().initialise(sample_TD, generator, b_dec_E)
        nn.init.xavier_uniform_(self.W_enc, generator=generator)
        if self.d_in == self.d_out:
            self.W_dec.copy_(functional.normalize(self.W_enc, dim=1) if self.has_unit_norm else self.W_enc)
        self.b_enc.copy_(self.config.encoder_bias - self.W_enc @ sample_TD.mean(dim=0))
        if self.config.target_l0 is not None:
            self.b_enc.sub_(max(starting_cut(self, sample_TD, self.config.target_l0), 0.0))

    def select(self, pre_TF: Tensor) -> ActivePattern:
        """The latents with positive pre-activations."""
        return ActivePattern.of_mask(pre_TF > 0)

    @torch.no_grad()
    def after_step(self, parts: dict[str, Tensor], progress: float) -> None:
        """Also steer the penalty's weight, and the biases, which the weight cannot move in the final decay."""
        super().after_step(parts, progress)
        off = self.weight.adapt(parts["l0"], progress)
        if progress >= self.ramp_fraction:
            self.b_enc.sub_(off, alpha=_NUDGE)

    def _weighted_l1(self, values_A: Tensor, pattern: ActivePattern) -> Tensor:
        """The L1 norm of latents weighted by their decoder norms, mean over tokens."""
        norms_F: Tensor = torch.linalg.vector_norm(self.W_dec, dim=1)
        return self.latents.total((values_A * norms_F[pattern.feature_A]).sum()) / pattern.num_tokens
