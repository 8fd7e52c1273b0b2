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

from mistudio.sae.autoencoder import ThresholdedAutoencoder
from mistudio.sae.config import GatedConfig, StandardConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.penalty import PenaltyWeight, starting_cut
from mistudio.sae.training import SAETraining

# Of the logarithm of how far off the L0 is, by which the biases move in a step.
_NUDGE = 0.01


class L1Autoencoder(ThresholdedAutoencoder):
    """See the module's docstring."""

    config: StandardConfig | GatedConfig

    @property
    def threshold_F(self) -> Tensor:
        """Latents with positive pre-activations are active."""
        return self.b_enc.new_zeros(())


class L1Training(SAETraining):
    """See the module's docstring."""

    sae: L1Autoencoder
    shares_latents = True

    def __init__(self, sae: L1Autoencoder) -> None:
        super().__init__(sae)
        config = sae.config
        self.weight = PenaltyWeight(config.l1_coefficient, config.target_l0, config.penalty_warmup_fraction)

    @property
    def has_unit_norm(self) -> bool:
        """The penalty counts the decoder's norms: they are free."""
        return False

    @property
    def ramp_fraction(self) -> float:
        """The penalty's weight rises for so long."""
        return self.sae.config.penalty_warmup_fraction

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator, b_dec_E: Tensor | None = None) -> None:
        """Xavier-uniform encoder, tied decoder, negative encoder bias: a small one, or what a target asks for."""
        super().initialise(sample_TD, generator, b_dec_E)
        sae, config = self.sae, self.sae.config
        nn.init.xavier_uniform_(sae.W_enc, generator=generator)
        if sae.d_in == sae.d_out:
            sae.W_dec.copy_(functional.normalize(sae.W_enc, dim=1) if self.has_unit_norm else sae.W_enc)
        sae.b_enc.copy_(config.encoder_bias - sae.W_enc @ sample_TD.mean(dim=0))
        if config.target_l0 is not None:
            sae.b_enc.sub_(max(starting_cut(sae, sample_TD, config.target_l0), 0.0))

    @torch.no_grad()
    def after_step(self, parts: dict[str, Tensor], progress: float) -> None:
        """Also steer the penalty's weight, and the biases, which the weight cannot move in the final decay."""
        super().after_step(parts, progress)
        off = self.weight.adapt(parts["l0"], progress)
        if progress >= self.ramp_fraction:
            self.sae.b_enc.sub_(off, alpha=_NUDGE)

    def _weighted_l1(self, values_A: Tensor, pattern: ActivePattern) -> Tensor:
        """The L1 norm of latents weighted by their decoder norms, mean over tokens."""
        norms_F: Tensor = torch.linalg.vector_norm(self.sae.W_dec, dim=1)
        return self.latents.total((values_A * norms_F[pattern.feature_A]).sum()) / pattern.num_tokens
