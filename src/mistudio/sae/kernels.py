"""Sparse products: everything after the encoder goes through the active latents alone.

With K of F latents active, decoding and all weight gradients cost T*K*D instead of T*F*D. Both are bags
of rows: a reconstruction is a weighted sum of K decoder rows; the gradient of a weight row is a weighted
sum over the tokens on which its latent is active. The naive references do the same with dense matrices;
a test compares the two in float64.

Shape legend: T tokens, D model width, F features (latents), K active latents a token, A = T*K pairs, G groups
of S latents.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_GROUP_SIZE = 8


def top_indices(pre_TF: Tensor, k: int) -> Tensor:
    """Indices of the K largest entries of each row, in no order [T, K].

    On a CPU most of a row is passed over: of G groups of S entries, those with the K largest maxima hold the K
    largest entries, since no entry elsewhere exceeds any of these K maxima. Finding maxima is much cheaper than
    selecting.
    """
    num_groups = pre_TF.shape[1] // _GROUP_SIZE
    if pre_TF.device.type != "cpu" or pre_TF.shape[1] % _GROUP_SIZE or num_groups < 2 * k:
        return pre_TF.topk(k, dim=1, sorted=False).indices
    # A group is a column of this view, not a run of neighbours: maxima over columns are fast.
    maxima_TG = pre_TF.view(-1, _GROUP_SIZE, num_groups).amax(dim=1)
    group_TK = maxima_TG.topk(k, dim=1, sorted=False).indices
    first_S = torch.arange(0, pre_TF.shape[1], num_groups)
    candidates = (group_TK[:, None, :] + first_S[:, None]).flatten(1)
    return candidates.gather(1, pre_TF.gather(1, candidates).topk(k, dim=1, sorted=False).indices)


class ActivePattern:
    """Which latents are active on which token, and the same seen from the latents.

    The transposed view costs one sort, done when first asked for and shared by both weight gradients.
    """

    def __init__(self, indices_TK: Tensor, num_features: int) -> None:
        self.indices_TK = indices_TK.contiguous()
        self.num_features = num_features
        self._transposed: tuple[Tensor, Tensor, Tensor] | None = None

    def weighted_rows(self, weights_TK: Tensor, matrix_FD: Tensor) -> Tensor:
        """For each token, the weighted sum of the rows of its active latents [T, D]."""
        return functional.embedding_bag(self.indices_TK, matrix_FD, per_sample_weights=weights_TK, mode="sum")

    def weighted_tokens(self, weights_TK: Tensor, matrix_TD: Tensor) -> Tensor:
        """For each latent, the weighted sum of the tokens on which it is active [F, D]."""
        order_A, token_A, offsets_F = self._by_feature()
        weights_A = weights_TK.reshape(-1)[order_A]
        return functional.embedding_bag(token_A, matrix_TD, offsets_F, per_sample_weights=weights_A, mode="sum")

    def products(self, matrix_TD: Tensor, matrix_FD: Tensor) -> Tensor:
        """The product of each token's row with the rows of its active latents [T, K]."""
        num_tokens, num_active = self.indices_TK.shape
        offsets_T = torch.arange(0, num_tokens * num_active, num_active, device=matrix_TD.device)
        token_A = torch.arange(num_tokens, device=matrix_TD.device).repeat_interleave(num_active)
        # The gradient of a bag's weights is this product; PyTorch has a kernel for it, with no T*K*D copy.
        products_A: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            matrix_TD.contiguous(), matrix_FD, self.indices_TK.reshape(-1), offsets_T, token_A, 0, -1
        )
        return products_A.view(num_tokens, num_active)

    def sum_by_feature(self, weights_TK: Tensor) -> Tensor:
        """For each latent, the sum of its weights over all tokens [F]."""
        # Not index_add_, whose atomic additions on a GPU give other last bits each time.
        ones_T1 = weights_TK.new_ones(len(weights_TK), 1)
        return self.weighted_tokens(weights_TK, ones_T1).squeeze(1)

    def _by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._transposed is None:
            flat_A = self.indices_TK.reshape(-1)
            order_A = torch.argsort(flat_A, stable=True)
            counts_F = torch.bincount(flat_A, minlength=self.num_features)
            offsets_F = torch.cumsum(counts_F, 0) - counts_F
            self._transposed = order_A, order_A // self.indices_TK.shape[1], offsets_F
        return self._transposed


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_TK: Tensor, weight_FD: Tensor, pattern: ActivePattern) -> Tensor:
        ctx.save_for_backward(values_TK, weight_FD)
        ctx.pattern = pattern
        return pattern.weighted_rows(values_TK, weight_FD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        values_TK, weight_FD = ctx.saved_tensors
        grad_TD = grads[0].contiguous()
        grad_values_TK = ctx.pattern.products(grad_TD, weight_FD)
        return grad_values_TK, ctx.pattern.weighted_tokens(values_TK, grad_TD), None


class _ActivePreactivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values_TK: Tensor,
        x_TD: Tensor,
        b_pre_D: Tensor,
        W_enc_FD: Tensor,
        b_enc_F: Tensor,
        pattern: ActivePattern,
    ) -> Tensor:
        ctx.save_for_backward(values_TK, x_TD, b_pre_D, W_enc_FD)
        ctx.pattern = pattern
        return values_TK.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor, Tensor, Tensor, None]:
        values_TK, x_TD, b_pre_D, W_enc_FD = ctx.saved_tensors
        grad_TK = grads[0] * (values_TK > 0)
        grad_b_enc_F = ctx.pattern.sum_by_feature(grad_TK)
        grad_W_enc_FD = ctx.pattern.weighted_tokens(grad_TK, x_TD - b_pre_D)
        # The pre-bias is subtracted on every token, so its gradient needs no per-token product.
        return None, None, -(grad_b_enc_F @ W_enc_FD), grad_W_enc_FD, grad_b_enc_F, None


def sparse_decode(values_TK: Tensor, weight_FD: Tensor, pattern: ActivePattern) -> Tensor:
    """Weighted sum of the active decoder rows [T, D]; differentiable in the values and the weight."""
    out: Tensor = _SparseDecode.apply(values_TK, weight_FD, pattern)  # type: ignore[no-untyped-call]
    return out


def active_preactivations(
    pre_TF: Tensor, x_TD: Tensor, b_pre_D: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, pattern: ActivePattern
) -> Tensor:
    """ReLU of the pre-activations at the active latents [T, K], differentiable in the encoder's weights.

    ``pre_TF`` is the encoder product computed without gradients; ``x_TD`` is data and gets no gradient.
    """
    values_TK = pre_TF.gather(1, pattern.indices_TK).clamp_(min=0)
    out: Tensor = _ActivePreactivations.apply(values_TK, x_TD, b_pre_D, W_enc_FD, b_enc_F, pattern)  # type: ignore[no-untyped-call]
    return out


def naive_decode(values_TK: Tensor, weight_FD: Tensor, indices_TK: Tensor) -> Tensor:
    """Reference of :func:`sparse_decode`: a dense matrix of activations times the decoder."""
    acts_TF = values_TK.new_zeros(len(values_TK), len(weight_FD)).scatter(1, indices_TK, values_TK)
    return acts_TF @ weight_FD


def naive_preactivations(
    x_TD: Tensor, b_pre_D: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, indices_TK: Tensor
) -> Tensor:
    """Reference of :func:`active_preactivations`: the whole encoder product, then the active entries."""
    return torch.relu((x_TD - b_pre_D) @ W_enc_FD.T + b_enc_F).gather(1, indices_TK)
