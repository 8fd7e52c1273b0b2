"""TopK autoencoder: the K largest pre-activations are kept, all others are zero.

    z = TopK(ReLU(W_enc (x - b_dec) + b_enc)),    x̂ = W_dec z + b_dec

Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv:2406.04093): tied initialisation,
unit-norm decoder directions, and an auxiliary loss in which latents that have not fired for long model
what the active ones miss. The encoder product is the only dense operation of a step.

Shape legend: T tokens, D model width, F features (latents), K active latents a token.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae.base import ActiveLatents, Losses, SparseAutoencoder
from mistudio.sae.config import TopKConfig
from mistudio.sae.kernels import ActivePattern, active_preactivations, sparse_decode, top_indices


class TopKAutoencoder(SparseAutoencoder):
    """See the module's docstring."""

    config: TopKConfig

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator) -> None:
        """Random unit directions, encoder tied to decoder, origin at the sample's mean."""
        directions_FD = torch.randn(self.width, self.d_in, generator=generator)
        self.W_dec.copy_(functional.normalize(directions_FD, dim=1))
        self.W_enc.copy_(self.W_dec)
        self.b_enc.zero_()
        self.b_dec.copy_(sample_TD.mean(dim=0))

    def _encode_block(self, x_TD: Tensor) -> ActiveLatents:
        """Fewer than K latents where fewer are positive."""
        pre_TF = self._preactivations(x_TD)
        indices_TK = top_indices(pre_TF, self.config.k).sort(dim=1).values
        values_TK = pre_TF.gather(1, indices_TK)
        token_A, place_A = torch.nonzero(values_TK > 0, as_tuple=True)
        return ActiveLatents(token_A, indices_TK[token_A, place_A], values_TK[token_A, place_A])

    def losses(self, x_TD: Tensor, dead_F: Tensor, progress: float) -> Losses:
        """Fraction of variance unexplained, plus the auxiliary loss on dead latents."""
        with torch.no_grad():
            pre_TF = self._preactivations(x_TD)
            pattern = self._top(pre_TF, self.config.k)
        values_TK = active_preactivations(pre_TF, x_TD, self.b_dec, self.W_enc, self.b_enc, pattern)
        error_TD = x_TD - sparse_decode(values_TK, self.W_dec, pattern) - self.b_dec
        fvu = error_TD.square().mean()  # activations have unit variance per dimension here
        parts = {"fvu": fvu.detach(), "l0": (values_TK > 0).sum() / len(x_TD)}
        total = fvu
        if self.config.aux_coefficient and bool(dead_F.any()):
            auxiliary = self._auxiliary_loss(x_TD, pre_TF, error_TD.detach(), dead_F)
            parts["auxiliary"] = auxiliary.detach()
            total = fvu + self.config.aux_coefficient * auxiliary
        fired_F = pattern.sum_by_feature((values_TK.detach() > 0).to(x_TD.dtype))
        return Losses(total, fvu.detach(), parts, fired_F)

    @torch.no_grad()
    def before_step(self) -> None:
        """Remove the part of the decoder's gradient that would only change its norms."""
        grad_FD = self.W_dec.grad
        if grad_FD is not None:
            grad_FD -= (grad_FD * self.W_dec).sum(dim=1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring decoder directions back to unit norm."""
        self.W_dec.copy_(functional.normalize(self.W_dec, dim=1))

    def _preactivations(self, x_TD: Tensor) -> Tensor:
        # One bias for both shifts saves a pass over x.
        return functional.linear(x_TD, self.W_enc, self.b_enc - self.W_enc @ self.b_dec)

    def _top(self, pre_TF: Tensor, k: int) -> ActivePattern:
        return ActivePattern(top_indices(pre_TF, k), self.width)

    def _auxiliary_loss(self, x_TD: Tensor, pre_TF: Tensor, missed_TD: Tensor, dead_F: Tensor) -> Tensor:
        """How badly the best dead latents reconstruct what the active ones missed."""
        k = min(self.config.aux_k or max(self.d_in // 2, 1), int(dead_F.sum()))
        with torch.no_grad():
            pattern = self._top(pre_TF.masked_fill(~dead_F, -torch.inf), k)
        values_TK = active_preactivations(pre_TF, x_TD, self.b_dec, self.W_enc, self.b_enc, pattern)
        left_TD = missed_TD - sparse_decode(values_TK, self.W_dec, pattern)
        return left_TD.square().mean() / missed_TD.square().mean().clamp(min=1e-12)
