"""BatchTopK autoencoder: the K T largest pre-activations of a batch of T tokens are kept.

Bussmann, Leask and Nanda 2024, "BatchTopK sparse autoencoders" (arXiv:2412.06410). A token gets as many
latents as it needs, K on average. In use there is no batch: a latent is active above ``threshold``, the running mean of
the smallest activation kept in training, which is part of the saved weights.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

from typing import ClassVar

import torch
from torch import Tensor

from mistudio.sae.autoencoder import ExportForm, ThresholdedAutoencoder
from mistudio.sae.auxiliary import auxiliary_loss, drawn_up
from mistudio.sae.config import ArchitectureConfig, BatchTopKConfig, MatryoshkaConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.selection import batch_top
from mistudio.sae.training import Losses, SAETraining, Stage

# After n steps the running threshold is about the mean of the last n / 10, until the configured rate is slower.
_FORGETTING = 10.0


class BatchTopKAutoencoder(ThresholdedAutoencoder):
    """See the module's docstring."""

    Config: ClassVar[type[ArchitectureConfig]] = BatchTopKConfig
    config: BatchTopKConfig | MatryoshkaConfig
    own_weights = ("threshold",)
    export_form = ExportForm("thresholds", {"dictionary_learning": "BatchTopKSAE"})

    def __init__(self, config: BatchTopKConfig | MatryoshkaConfig, d_in: int, d_out: int | None = None) -> None:
        super().__init__(config, d_in, d_out)
        self.register_buffer("threshold", torch.zeros(()))
        self.threshold: Tensor

    def for_training(self) -> "BatchTopKTraining":
        """What trains these weights."""
        return BatchTopKTraining(self)

    @property
    def threshold_F(self) -> Tensor:
        """One threshold for all latents."""
        return self.threshold


class BatchTopKTraining(SAETraining):
    """See the module's docstring."""

    sae: BatchTopKAutoencoder
    shares_latents = True

    def __init__(self, sae: BatchTopKAutoencoder) -> None:
        super().__init__(sae)
        self.register_buffer("threshold_steps", torch.zeros(()))
        self.threshold_steps: Tensor

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """Fraction of variance unexplained, plus the auxiliary loss."""
        config = self.sae.config
        pre_TF = self._preactivations(x_TD)
        pattern = batch_top(pre_TF, config.k * self.batch.agree(len(x_TD)), self.workers)
        values_A = torch.relu(self._active(pre_TF, x_TD, pattern))
        fvu, error_TE, parts = self._reconstruction(values_A, pattern, x_TD, y_TE)
        fired_A = (values_A.detach() > 0).to(x_TD.dtype)
        parts |= {"l0": self._l0(fired_A, x_TD), "smallest": self._smallest(values_A.detach())}
        total = fvu
        if config.aux_coefficient and stage.dead_F is not None:
            missed_TE = error_TE.detach()
            auxiliary = auxiliary_loss(self, pre_TF, x_TD, missed_TE, stage.dead_F, config.aux_k)
            parts["auxiliary"] = auxiliary.detach()
            total = fvu + config.aux_coefficient * (auxiliary + drawn_up(self, x_TD, stage.dead_F))
        return Losses(total, fvu.detach(), parts, pattern.sum_by_feature(fired_A))

    @torch.no_grad()
    def after_step(self, parts: dict[str, Tensor], progress: float) -> None:
        """Also move the threshold: early on fast, so that what an untrained dictionary gave is soon forgotten."""
        super().after_step(parts, progress)
        threshold, steps = self.sae.threshold, self.threshold_steps
        rate = (_FORGETTING / (steps + _FORGETTING)).clamp(min=self.sae.config.threshold_rate)
        threshold.add_(torch.where(threshold > 0, rate, 1.0) * (parts["smallest"] - threshold))
        steps.add_(1)

    def fold_own(self, scale: float, shift_F: Tensor) -> None:
        """The threshold counts in the latents' units."""
        self.sae.threshold.mul_(scale)

    def _reconstruction(
        self, values_A: Tensor, pattern: ActivePattern, x_TD: Tensor, y_TE: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss of the reconstruction, the error of the whole dictionary, and what to report."""
        error_TE = y_TE - self._rebuild(values_A, pattern, x_TD)
        fvu = self._fvu(error_TE)
        return fvu, error_TE, {"fvu": fvu.detach()}

    def _smallest(self, values_A: Tensor) -> Tensor:
        """The smallest positive value of the batch; the threshold where there is none."""
        infinite = values_A.new_full((), torch.inf)
        smallest = torch.where(values_A > 0, values_A, torch.inf).amin() if len(values_A) else infinite
        smallest = self.workers.least(smallest)
        return torch.where(smallest.isfinite(), smallest, self.sae.threshold)
