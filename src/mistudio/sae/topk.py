"""TopK autoencoder: the K largest pre-activations of a token are kept, all others are zero.

    z = TopK(ReLU(W_enc x + b_enc)),    loss = FVU(x, x̂) + (AuxK + pull) / 32 + c FVU(x, x̂ with 4 K)

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093): tied initialisation,
unit-norm decoder directions, an auxiliary loss in which latents that have not fired for long model what the
active ones miss, and optionally the multi-TopK loss. Beside it dead latents are drawn up: see
:mod:`mistudio.sae.auxiliary`.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae.autoencoder import ExportForm, SparseAutoencoder
from mistudio.sae.auxiliary import auxiliary_loss, drawn_up
from mistudio.sae.config import TopKConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.selection import top_pattern
from mistudio.sae.training import Losses, SAETraining, Stage

_MULTI_K = 4
FEW_TOKENS = 256  # encoded in one block by all encoders


class TopKAutoencoder(SparseAutoencoder):
    """See the module's docstring."""

    Config = TopKConfig
    config: TopKConfig
    export_form = ExportForm("topk")

    def for_training(self) -> "TopKTraining":
        """What trains these weights."""
        return TopKTraining(self)

    def select(self, pre_TF: Tensor) -> ActivePattern:
        """The K largest of each token; fewer are active where fewer are positive."""
        return top_pattern(pre_TF, self.config.k)

    def encoder_of(self, latents_C: Tensor) -> Callable[[Tensor], Tensor]:
        """As of all architectures. On few tokens, as a model has that writes, what is active is not listed first."""
        encode_many = super().encoder_of(latents_C)
        latents_C, k = self._checked(latents_C), self.config.k

        @torch.no_grad()
        def encode(x_TD: Tensor) -> Tensor:
            if len(x_TD) > FEW_TOKENS:
                return encode_many(x_TD)
            pre_TF = functional.linear(x_TD, self.W_enc, self.b_enc)
            least_T1 = pre_TF.topk(k, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
            if bool((pre_TF >= least_T1).sum() > k * len(x_TD)):  # equals compete for the last place
                return encode_many(x_TD)
            pre_TC = pre_TF[:, latents_C]
            acts_TC = torch.where((pre_TC >= least_T1) & (pre_TC > 0), pre_TC, 0.0)
            if self.norm_limit is None:
                return acts_TC
            return acts_TC.masked_fill(~self.norm_limit.keeps(x_TD)[:, None], 0.0)

        return encode


class TopKTraining(SAETraining):
    """See the module's docstring."""

    sae: TopKAutoencoder
    shares_latents = True

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """Fraction of variance unexplained, plus the auxiliary losses."""
        config = self.sae.config
        pre_TF = self._preactivations(x_TD)
        pattern = self._top(pre_TF, config.k)
        values_A = self.sae.activate(self._active(pre_TF, x_TD, pattern), pattern.feature_A)
        error_TE = y_TE - self._rebuild(values_A, pattern, x_TD)
        fired_A = (values_A.detach() > 0).to(x_TD.dtype)
        total = fvu = self._fvu(error_TE)
        parts = {"fvu": fvu.detach(), "l0": self._l0(fired_A, x_TD)}
        if config.aux_coefficient and stage.dead_F is not None:
            missed_TE = error_TE.detach()
            auxiliary = auxiliary_loss(self, pre_TF, x_TD, missed_TE, stage.dead_F, config.aux_k)
            parts["auxiliary"] = auxiliary.detach()
            total = total + config.aux_coefficient * (auxiliary + drawn_up(self, x_TD, stage.dead_F))
        if config.multi_k_coefficient:
            wide = self._top(pre_TF, min(_MULTI_K * config.k, self.sae.width))
            rebuilt_TE = self._rebuild(torch.relu(self._active(pre_TF, x_TD, wide)), wide, x_TD)
            multi = self._fvu(y_TE - rebuilt_TE)
            parts["multi_k"] = multi.detach()
            total = total + config.multi_k_coefficient * multi
        return Losses(total, fvu.detach(), parts, pattern.sum_by_feature(fired_A))

    def _select(self, pre_TF: Tensor) -> ActivePattern:
        return self._top(pre_TF, self.sae.config.k)

    def _top(self, pre_TF: Tensor, k: int) -> ActivePattern:
        return top_pattern(pre_TF, k, self.latents)
