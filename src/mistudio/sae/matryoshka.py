"""Matryoshka autoencoder: prefixes of the dictionary are dictionaries of their own.

    loss = mean over prefixes m of FVU(y, ŷ from the first m latents)

Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders" (arXiv:2503.17547),
over BatchTopK. The early latents have to be of use alone, so they stay general while later ones become
specific. Each prefix adds the latents of one group to the reconstruction of the prefix before: the nested
losses cost no more products than one.

Shape legend: T tokens, D and E widths of input and output, A active pairs, G groups.
"""

from itertools import pairwise

import torch
from torch import Tensor

from mistudio.sae.autoencoder import ExportForm
from mistudio.sae.batchtopk import BatchTopKAutoencoder, BatchTopKTraining
from mistudio.sae.config import MatryoshkaConfig
from mistudio.sae.kernels import ActivePattern, sparse_decode, starts_of


class MatryoshkaAutoencoder(BatchTopKAutoencoder):
    """See the module's docstring."""

    Config = MatryoshkaConfig
    config: MatryoshkaConfig
    export_form = ExportForm("thresholds", {"dictionary_learning": "MatryoshkaBatchTopKSAE"})

    def for_training(self) -> "MatryoshkaTraining":
        """What trains these weights."""
        return MatryoshkaTraining(self)


class MatryoshkaTraining(BatchTopKTraining):
    """See the module's docstring."""

    sae: MatryoshkaAutoencoder

    def _reconstruction(
        self, values_A: Tensor, pattern: ActivePattern, x_TD: Tensor, y_TE: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        widths = self.sae.config.nested_widths
        error_TE = y_TE - self.sae.with_skip(self.sae.b_dec.expand(len(x_TD), -1), x_TD)
        losses = []
        bounds = [self._here(width) for width in (0, *widths)]
        for first, stop in pairwise(bounds):
            members = ((pattern.feature_A >= first) & (pattern.feature_A < stop)).nonzero().squeeze(1)
            starts_T = starts_of(pattern.token_A[members], pattern.num_tokens)
            group = ActivePattern(pattern.feature_A[members] - first, starts_T, stop - first)
            rebuilt_TE = sparse_decode(values_A[members], self.sae.W_dec[first:stop], group)
            error_TE = error_TE - self.latents.total(rebuilt_TE)
            losses.append(self._fvu(error_TE))
        parts = {f"fvu_{width}": loss.detach() for width, loss in zip(widths[:-1], losses, strict=False)}
        return torch.stack(losses).mean(), error_TE, {**parts, "fvu": losses[-1].detach()}

    def _here(self, width: int) -> int:
        """How many of the first ``width`` latents are in this process."""
        own = len(self.sae.b_enc)
        return min(max(width - self.latents.rank * own, 0), own)
