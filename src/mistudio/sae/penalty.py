"""How a target L0 is reached: where training starts, and the weight of the penalty, with a ramp and a controller.

The controller multiplies the weight by a little more than one where more latents are active than wanted, and
by a little less where fewer are: an integrator in the logarithm, because the L0 that a weight leads to
depends on the model, the layer and the width by orders of magnitude. While the weight still rises it is not raised
further: too many latents are active for want of it, which says nothing of where it should end.

Shape legend: T tokens, F features (latents).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.sae.autoencoder import SparseAutoencoder

_GAIN = 0.03  # largest change of the logarithm in one step
# With a target, training starts with so many times as many active latents: enough to choose from, and sparse
# enough to be fast from the first step.
_START_FACTOR = 4.0
_START_ROWS = 512


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
    def adapt(self, l0: Tensor, progress: float) -> Tensor:
        """Move towards the target.

        Args:
            l0: of a step.
            progress: share of training that was done before it.

        Returns:
            How far off it is, as a logarithm in [-1, 1]; 0 without a target.
        """
        if self.target_l0 is None:
            return torch.zeros_like(l0)
        off = (l0 / self.target_l0).clamp(min=1e-3).log().clamp(-1, 1)
        self.log_weight.add_(off if progress >= self.warmup_fraction else off.clamp(max=0.0), alpha=_GAIN)
        return off


def starting_cut(sae: SparseAutoencoder, sample_TD: Tensor, target_l0: float) -> float:
    """The pre-activation above which a few times the target are, at most half of the latents.

    Args:
        sae: as it starts.
        sample_TD: of its inputs.
        target_l0: active latents on a token, later.
    """
    rows_TD = sample_TD[:: max(len(sample_TD) // _START_ROWS, 1)]
    pre_TF = functional.linear(rows_TD, sae.W_enc, sae.b_enc)
    share = min(_START_FACTOR * target_l0 / sae.width, 0.5)
    return float(pre_TF.reshape(-1).topk(max(int(share * pre_TF.numel()), 1)).values[-1])
