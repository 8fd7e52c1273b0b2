"""The weight of a sparsity penalty: a ramp at the start, and a controller that reaches a target L0.

The controller multiplies the weight by a little more than one where more latents are active than wanted, and
by a little less where fewer are: an integrator in the logarithm, because the L0 that a weight leads to
depends on the model, the layer and the width by orders of magnitude.
"""

import math

import torch
from torch import Tensor, nn

_GAIN = 0.03  # largest change of the logarithm in one step


class PenaltyWeight(nn.Module):
    """The weight that a penalty has at a stage of training; state, saved with the autoencoder's training."""

    def __init__(self, initial: float, target_l0: float | None, warmup_fraction: float) -> None:
        super().__init__()
        self.target_l0, self.warmup_fraction = target_l0, warmup_fraction
        self.register_buffer("log_weight", torch.tensor(math.log(initial)))
        self.log_weight: Tensor

    def at(self, progress: float) -> Tensor:
        """The weight when a share ``progress`` of training is done."""
        ramp = min(progress / self.warmup_fraction, 1.0) if self.warmup_fraction else 1.0
        return self.log_weight.exp() * ramp

    @torch.no_grad()
    def adapt(self, l0: Tensor) -> None:
        """Move towards the target, given the L0 of a step."""
        if self.target_l0 is not None:
            self.log_weight.add_((l0 / self.target_l0).clamp(min=1e-3).log().clamp(-1, 1), alpha=_GAIN)
