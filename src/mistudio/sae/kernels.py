"""Sparse products: everything after the encoder goes through the active latents alone.

With K of F latents active on a token, decoding and all weight gradients cost T*K*D instead of T*F*D. Both
are bags of rows: a reconstruction is a weighted sum of the active decoder rows; the gradient of a weight row
is a weighted sum over the tokens on which its latent is active. The naive references do the same with dense
matrices; a test compares the two in float64.

Where many latents are active, as early in training under a penalty, dense products are faster: the pattern
changes over by itself. On a GPU, Triton kernels take the place of PyTorch's where they can.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active (token, latent) pairs.
"""

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae.backend import serves_triton

# Said once by PyTorch of its sparse tensors; they do not leave this module.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")

# Above this share of active latents a dense product costs less than the bags (measured on CPU; see
# benchmarks/sae_step.py).
_DENSE_SHARE = 1 / 16
# On a CPU, bags are summed a block of columns at a time, so that the block of all rows stays in the cache of a core.
_BLOCK_BYTES = 1 << 20
_BLOCK_COLUMNS = (32, 128)  # fewest and most
_BLOCK_REUSE = 8  # pairs a row from which it is worth while


class ActivePattern:
    """Which latents are active on which token, and the same seen from the latents.

    Pairs are ordered by token. The view by latent costs one sort, done when first asked for and shared by all
    weight gradients.
    """

    def __init__(self, feature_A: Tensor, starts_T: Tensor, num_features: int) -> None:
        self.feature_A, self.starts_T, self.num_features = feature_A, starts_T, num_features
        self.num_tokens = len(starts_T)
        self._is_dense = len(feature_A) > _DENSE_SHARE * self.num_tokens * num_features

    @classmethod
    def of_indices(cls, indices_TK: Tensor, num_features: int) -> "ActivePattern":
        """The pattern with the same number of latents on every token."""
        num_tokens, k = indices_TK.shape
        starts_T = torch.arange(num_tokens, dtype=torch.int32, device=indices_TK.device) * k
        return cls(indices_TK.reshape(-1).to(torch.int32), starts_T, num_features)

    @classmethod
    def of_mask(cls, mask_TF: Tensor) -> "ActivePattern":
        """The pattern of the true entries, by token, then by latent."""
        if mask_TF.device.type == "cpu":
            # NumPy's scan is several times faster than torch.nonzero here.
            flat_A = torch.from_numpy(mask_TF.numpy().reshape(-1).nonzero()[0])
        else:
            flat_A = mask_TF.reshape(-1).nonzero().squeeze(1)
        return cls.of_places(flat_A, len(mask_TF), mask_TF.shape[1])

    @classmethod
    def of_places(cls, flat_A: Tensor, num_tokens: int, num_features: int) -> "ActivePattern":
        """The pattern of entries of a dense matrix, given as their rising numbers in it."""
        token_A = torch.div(flat_A, num_features, rounding_mode="floor")
        feature_A = (flat_A - token_A * num_features).to(torch.int32)
        pattern = cls(feature_A, starts_of(token_A, num_tokens), num_features)
        pattern.token_A = token_A.to(torch.int32)
        return pattern

    def subset(self, kept_A: Tensor) -> "ActivePattern":
        """The pattern of some of the pairs, given as booleans or as rising numbers of pairs."""
        token_A = self.token_A[kept_A]
        pattern = ActivePattern(self.feature_A[kept_A], starts_of(token_A, self.num_tokens), self.num_features)
        pattern.token_A = token_A
        return pattern

    @cached_property
    def token_A(self) -> Tensor:
        """The token of each pair."""
        ends_T = functional.pad(self.starts_T[1:], (0, 1), value=len(self.feature_A))
        tokens_T = torch.arange(self.num_tokens, dtype=torch.int32, device=self.starts_T.device)
        return tokens_T.repeat_interleave(ends_T - self.starts_T, output_size=len(self.feature_A))

    @property
    def place_A(self) -> Tensor:
        """The number of each pair's entry in a dense matrix of all."""
        return self.token_A.long() * self.num_features + self.feature_A

    def gather(self, matrix_TF: Tensor) -> Tensor:
        """The entries of a dense matrix at the active pairs [A]."""
        return matrix_TF.reshape(-1).index_select(0, self.place_A)

    def scatter(self, values_A: Tensor) -> Tensor:
        """A dense matrix with the values at the active pairs [T, F]."""
        dense_TF = values_A.new_zeros(self.num_tokens, self.num_features)
        dense_TF[self.token_A.long(), self.feature_A.long()] = values_A
        return dense_TF

    def weighted_rows(self, weights_A: Tensor, matrix_FD: Tensor) -> Tensor:
        """For each token, the weighted sum of the rows of its active latents [T, D]."""
        if self._is_dense:
            return self.scatter(weights_A) @ matrix_FD
        if serves_triton(weights_A):
            from mistudio.sae.triton_kernels import bag_sums

            return bag_sums(self.feature_A, weights_A, self.starts_T, matrix_FD)
        return weighted_bags(self.feature_A, weights_A, self.starts_T, matrix_FD)

    def weighted_tokens(self, weights_A: Tensor, matrix_TD: Tensor) -> Tensor:
        """For each latent, the weighted sum of the tokens on which it is active [F, D]."""
        if self._is_dense:
            return self.scatter(weights_A).T @ matrix_TD
        order_A, token_A, starts_F = self._by_feature
        if serves_triton(weights_A):
            from mistudio.sae.triton_kernels import split_bag_sums

            return split_bag_sums(
                token_A,
                weights_A.index_select(0, order_A),
                starts_F,
                self.feature_A.index_select(0, order_A),
                matrix_TD,
            )
        return weighted_bags(token_A, weights_A.index_select(0, order_A), starts_F, matrix_TD)

    def products(self, matrix_TD: Tensor, matrix_FD: Tensor) -> Tensor:
        """The product of each token's row with the rows of its active latents [A]."""
        if self._is_dense:
            return self.gather(matrix_TD @ matrix_FD.T)
        if serves_triton(matrix_TD):
            from mistudio.sae.triton_kernels import pair_products

            return pair_products(self.token_A, matrix_TD, self.feature_A, matrix_FD)
        # A sampled product: no A*D copy, and faster than the gradient of a bag's weights, which is the same.
        ends_T1 = functional.pad(self.starts_T, (0, 1), value=len(self.feature_A))
        shape = (self.num_tokens, self.num_features)
        zeros_A = matrix_TD.new_zeros(len(self.feature_A))
        sampled_TF = torch.sparse_csr_tensor(ends_T1, self.feature_A, zeros_A, shape, check_invariants=False)
        torch.sparse.sampled_addmm(sampled_TF, matrix_TD, matrix_FD.T, out=sampled_TF)
        return sampled_TF.values()

    def sum_by_feature(self, weights_A: Tensor) -> Tensor:
        """For each latent, the sum of its weights over all tokens [F]."""
        if weights_A.device.type == "cpu":
            return torch.bincount(self.feature_A, weights_A, self.num_features).to(weights_A.dtype)
        # Not bincount or index_add_, whose atomic additions on a GPU give other last bits each time.
        ones_T1 = weights_A.new_ones(self.num_tokens, 1)
        return self.weighted_tokens(weights_A, ones_T1).squeeze(1)

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor, Tensor]:
        # A key of 16 bits is sorted by radix, on a CPU by NumPy also where there are few.
        key_A = self.feature_A.to(torch.int16) if self.num_features <= 1 << 15 else self.feature_A
        if key_A.device.type == "cpu" and key_A.dtype == torch.int16:
            order_A = torch.from_numpy(key_A.numpy().argsort(kind="stable"))
            key_A = key_A.index_select(0, order_A)
        else:
            key_A, order_A = key_A.sort(stable=True)
        return order_A, self.token_A.index_select(0, order_A), starts_of(key_A, self.num_features)


def starts_of(rising_A: Tensor, num_bags: int) -> Tensor:
    """Where each bag begins, given the bag of each pair; unlike ``bincount`` without waiting for a GPU."""
    bags_B = torch.arange(num_bags, dtype=rising_A.dtype, device=rising_A.device)
    return torch.searchsorted(rising_A, bags_B, out_int32=True)


def weighted_bags(row_A: Tensor, weights_A: Tensor, starts_B: Tensor, matrix_RD: Tensor) -> Tensor:
    """Weighted sums of rows, one for each bag [B, D]. The same bits, however many columns are taken at once."""

    def sums(columns_RC: Tensor) -> Tensor:
        return functional.embedding_bag(row_A, columns_RC, starts_B, per_sample_weights=weights_A, mode="sum")

    num_rows, width = matrix_RD.shape
    fewest, most = _BLOCK_COLUMNS
    fitting = _BLOCK_BYTES // (max(num_rows, 1) * matrix_RD.element_size())
    is_reused = len(row_A) >= _BLOCK_REUSE * num_rows
    if matrix_RD.device.type != "cpu" or not is_reused or not fewest <= fitting < width:
        return sums(matrix_RD)
    out_BD = matrix_RD.new_empty(len(starts_B), width)
    block = min(fitting, most)
    for start in range(0, width, block):
        out_BD[:, start : start + block] = sums(matrix_RD[:, start : start + block])
    return out_BD


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_A: Tensor, weight_FE: Tensor, pattern: ActivePattern) -> Tensor:
        ctx.save_for_backward(values_A, weight_FE)
        ctx.pattern = pattern
        return pattern.weighted_rows(values_A, weight_FE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values_A, weight_FE = ctx.saved_tensors
        grad_TE = grads[0].contiguous()
        wants_values, wants_weight, _ = ctx.needs_input_grad
        grad_A = ctx.pattern.products(grad_TE, weight_FE) if wants_values else None
        return grad_A, ctx.pattern.weighted_tokens(values_A, grad_TE) if wants_weight else None, None


class _ActivePreactivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre_A: Tensor, x_TD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, pattern: ActivePattern
    ) -> Tensor:
        ctx.save_for_backward(x_TD)
        ctx.pattern = pattern
        return pre_A.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor, Tensor, None]:
        (x_TD,) = ctx.saved_tensors
        grad_A = grads[0].contiguous()
        return None, None, ctx.pattern.weighted_tokens(grad_A, x_TD), ctx.pattern.sum_by_feature(grad_A), None


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error_TE: Tensor) -> Tensor:
        ctx.save_for_backward(error_TE)
        squares_T: Tensor = torch.linalg.vecdot(error_TE, error_TE)
        return squares_T.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (error_TE,) = ctx.saved_tensors
        grad_TE: Tensor = error_TE * (2 * grads[0])
        return grad_TE


def sum_of_squares(error_TE: Tensor) -> Tensor:
    """The sum of the squares of all entries; passes over them once in either direction."""
    out: Tensor = _SumOfSquares.apply(error_TE)  # type: ignore[no-untyped-call]
    return out


def sparse_decode(values_A: Tensor, weight_FE: Tensor, pattern: ActivePattern) -> Tensor:
    """Weighted sum of the active decoder rows [T, E]; differentiable in the values and the weight."""
    out: Tensor = _SparseDecode.apply(values_A, weight_FE, pattern)  # type: ignore[no-untyped-call]
    return out


def active_preactivations(
    pre_TF: Tensor, x_TD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, pattern: ActivePattern
) -> Tensor:
    """Pre-activations of the active pairs [A], differentiable in the encoder's weights.

    ``pre_TF`` is the encoder product computed without gradients. Where it has fewer digits than the input,
    as in bfloat16, it only served to select: the values are computed again in full. ``x_TD`` is data and gets
    no gradient.
    """
    with torch.no_grad():
        if pre_TF.dtype == x_TD.dtype:
            pre_A = pattern.gather(pre_TF)
        else:
            pre_A = pattern.products(x_TD, W_enc_FD) + b_enc_F[pattern.feature_A]
    out: Tensor = _ActivePreactivations.apply(pre_A, x_TD, W_enc_FD, b_enc_F, pattern)  # type: ignore[no-untyped-call]
    return out


def encoder_product(
    x_TD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, dtype: torch.dtype, out_TF: Tensor | None = None
) -> Tensor:
    """The one dense product of a step, in ``dtype`` [T, F]; without gradients. Written to ``out_TF`` if given."""
    with torch.no_grad():
        return torch.addmm(b_enc_F.to(dtype), x_TD.to(dtype), W_enc_FD.to(dtype).T, out=out_TF)


def naive_decode(values_A: Tensor, weight_FE: Tensor, pattern: ActivePattern) -> Tensor:
    """Reference of :func:`sparse_decode`: a dense matrix of activations times the decoder."""
    return pattern.scatter(values_A) @ weight_FE


def naive_preactivations(x_TD: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, pattern: ActivePattern) -> Tensor:
    """Reference of :func:`active_preactivations`: the whole encoder product, then the active entries."""
    return pattern.gather(x_TD @ W_enc_FD.T + b_enc_F)
