"""What takes activations to the units of training, measured on a sample before training starts.

Shape legend: T tokens, N rows of the sample, D and E widths of input and target.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from mistudio.sae import Normalisation, NormLimit
from mistudio.train.config import TrainConfig

_MEDIAN_STEPS = 100
_MEDIAN_TOLERANCE = 1e-6


Rows = Tensor | tuple[Tensor, Tensor]  # activations, or inputs and the targets that go with them


class Scaling(NamedTuple):
    """The normalisation of one run, and what else is set from the sample."""

    normalisation: Normalisation
    target_variance: float  # mean variance a dimension of normalised targets
    b_dec_E: Tensor  # where the decoder's bias starts, normalised
    activation_std: float  # root of the mean variance over the dimensions, in the activations' units

    @classmethod
    def measure(cls, sample: Rows, config: TrainConfig) -> Self:
        """Measure on a sample of activations, or of pairs of inputs and targets: float32, from all over the corpus."""
        input_ND, target_NE = as_pair(sample)
        (mean_D, scale), (mean_E, target_scale) = (_centre(part, config) for part in (input_ND, target_NE))
        variance = float(target_NE.var(dim=0, correction=0).mean())
        origin_E = target_NE.mean(dim=0)
        if config.decoder_bias == "geometric_median":
            origin_E = geometric_median(target_NE)
        return cls(
            Normalisation(mean_D, scale, mean_E, target_scale),
            max(variance / target_scale**2, 1e-12),
            (origin_E - mean_E) / target_scale,
            max(variance**0.5, 1e-8),
        )

    def inputs(self, x_TD: Tensor) -> Tensor:
        """Inputs in the units of training [T, D]."""
        return (x_TD - self.normalisation.mean_D.to(x_TD.device)).div_(self.normalisation.scale)

    def targets(self, y_TE: Tensor) -> Tensor:
        """Targets in the units of training [T, E]."""
        return (y_TE - self.normalisation.target_mean_E.to(y_TE.device)).div_(self.normalisation.target_scale)


def norm_limit(sample: Rows, config: TrainConfig) -> NormLimit | None:
    """The limit that ``max_norm_ratio`` sets, measured on a sample; None where none is wanted."""
    if config.max_norm_ratio is None:
        return None
    return NormLimit.measured(as_pair(sample)[0], config.max_norm_ratio, centred=config.normalisation == "centred")


def only(rows: Rows, kept_N: Tensor) -> Rows:
    """The rows that are marked, and their targets; the same object where all are."""
    if bool(kept_N.all()):
        return rows
    return rows[kept_N] if isinstance(rows, Tensor) else (rows[0][kept_N], rows[1][kept_N])


def as_float32(rows: Rows, device: torch.device | None = None) -> Rows:
    """The same in float32, on a device."""
    if isinstance(rows, Tensor):
        return rows.to(device, torch.float32)
    return rows[0].to(device, torch.float32), rows[1].to(device, torch.float32)


def as_pair(rows: Rows) -> tuple[Tensor, Tensor]:
    """Inputs and targets; for an autoencoder the same tensor."""
    return (rows, rows) if isinstance(rows, Tensor) else rows


def _centre(part_ND: Tensor, config: TrainConfig) -> tuple[Tensor, float]:
    """What is subtracted, and what is divided by."""
    mean_D = part_ND.mean(dim=0)
    if config.normalisation == "centred":
        return mean_D, max(float(part_ND.var(dim=0, correction=0).mean()) ** 0.5, 1e-8)
    if config.normalisation == "unit_mean_square":
        return torch.zeros_like(mean_D), max(float(part_ND.norm(dim=1).square().mean() / part_ND.shape[1]) ** 0.5, 1e-8)
    return torch.zeros_like(mean_D), 1.0


def geometric_median(points_ND: Tensor) -> Tensor:
    """The point with the least sum of distances to all others [D] (Weiszfeld 1937); outliers move it little."""
    median_D = points_ND.mean(dim=0)
    for _ in range(_MEDIAN_STEPS):
        weights_N = 1 / (points_ND - median_D).norm(dim=1).clamp(min=1e-8)
        new_D = (weights_N[:, None] * points_ND).sum(dim=0) / weights_N.sum()
        moved = float((new_D - median_D).norm())
        median_D = new_D
        if moved <= _MEDIAN_TOLERANCE * float(median_D.norm()):
            break
    return median_D
