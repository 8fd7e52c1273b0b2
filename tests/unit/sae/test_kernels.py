"""The sparse products against dense ones, in float64, with all gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mistudio.sae.kernels import (
    ActivePattern,
    active_preactivations,
    naive_decode,
    naive_preactivations,
    sparse_decode,
    top_indices,
)


def random_pattern(num_tokens: int, num_features: int, k: int, generator: torch.Generator) -> Tensor:
    """K different latents a token, unsorted; the same latents come back on other tokens."""
    return torch.rand(num_tokens, num_features, generator=generator).argsort(dim=1)[:, :k]


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def gradients(out_TX: Tensor, weights_TX: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((out_TX * weights_TX).sum(), inputs))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Tokens, features, active latents, width, seed."""
    num_features = draw(st.integers(1, 9))
    k = draw(st.integers(1, num_features))
    return draw(st.integers(1, 7)), num_features, k, draw(st.integers(1, 6)), draw(st.integers(0, 2**31))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes())
def test_sparse_decode_and_its_gradients_equal_the_dense_form(shape: tuple[int, int, int, int, int]) -> None:
    num_tokens, num_features, k, d_in, seed = shape
    generator = torch.Generator().manual_seed(seed)
    indices_TK = random_pattern(num_tokens, num_features, k, generator)
    values_TK, weight_FD = normal(generator, num_tokens, k), normal(generator, num_features, d_in)
    upstream_TD = normal(generator, num_tokens, d_in).detach()
    fast_TD = sparse_decode(values_TK, weight_FD, ActivePattern(indices_TK, num_features))
    naive_TD = naive_decode(values_TK, weight_FD, indices_TK)
    torch.testing.assert_close(fast_TD, naive_TD, rtol=1e-12, atol=1e-12)
    fast = gradients(fast_TD, upstream_TD, [values_TK, weight_FD])
    naive = gradients(naive_TD, upstream_TD, [values_TK, weight_FD])
    torch.testing.assert_close(fast, naive, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes())
def test_active_preactivations_and_their_gradients_equal_the_dense_form(
    shape: tuple[int, int, int, int, int],
) -> None:
    num_tokens, num_features, k, d_in, seed = shape
    generator = torch.Generator().manual_seed(seed)
    indices_TK = random_pattern(num_tokens, num_features, k, generator)
    x_TD = normal(generator, num_tokens, d_in).detach()
    b_pre_D, W_enc_FD = normal(generator, d_in), normal(generator, num_features, d_in)
    b_enc_F = normal(generator, num_features)
    upstream_TK = normal(generator, num_tokens, k).detach()
    pre_TF = ((x_TD - b_pre_D) @ W_enc_FD.T + b_enc_F).detach()
    pattern = ActivePattern(indices_TK, num_features)
    fast_TK = active_preactivations(pre_TF, x_TD, b_pre_D, W_enc_FD, b_enc_F, pattern)
    naive_TK = naive_preactivations(x_TD, b_pre_D, W_enc_FD, b_enc_F, indices_TK)
    torch.testing.assert_close(fast_TK, naive_TK, rtol=1e-12, atol=1e-12)
    parameters = [b_pre_D, W_enc_FD, b_enc_F]
    fast, naive = (gradients(out_TK, upstream_TK, parameters) for out_TK in (fast_TK, naive_TK))
    torch.testing.assert_close(fast, naive, rtol=1e-12, atol=1e-12)


def test_finite_differences_agree_with_the_gradients_of_both_kernels_together() -> None:
    generator = torch.Generator().manual_seed(5)
    indices_TK = random_pattern(5, 8, 3, generator)
    x_TD = normal(generator, 5, 4).detach()

    def reconstruct(b_pre_D: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, W_dec_FD: Tensor) -> Tensor:
        pattern = ActivePattern(indices_TK, 8)
        pre_TF = ((x_TD - b_pre_D) @ W_enc_FD.T + b_enc_F).detach()
        values_TK = active_preactivations(pre_TF, x_TD, b_pre_D, W_enc_FD, b_enc_F, pattern)
        return sparse_decode(values_TK, W_dec_FD, pattern) + b_pre_D

    inputs = (normal(generator, 4), normal(generator, 8, 4), normal(generator, 8), normal(generator, 8, 4))
    assert torch.autograd.gradcheck(reconstruct, inputs)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize(("width", "k"), [(64, 1), (64, 4), (64, 5), (64, 64), (1024, 32), (1000, 7), (1001, 7)])
def test_the_largest_entries_are_found_whatever_the_ties(width: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(width + k)
    pre_TF = torch.randint(-levels, levels, (50, width), generator=generator).float()
    pre_TF[:, ::3] = -torch.inf  # as for latents that are not dead, in the auxiliary loss
    pre_TF[3] = -torch.inf
    indices_TK = top_indices(pre_TF, k)
    assert indices_TK.shape == (50, k)
    assert all(len(set(row)) == k for row in indices_TK.tolist())
    values_TK = pre_TF.gather(1, indices_TK).sort(dim=1, descending=True).values
    assert torch.equal(values_TK, pre_TF.topk(k, dim=1).values)


def test_a_latent_that_is_zero_passes_no_gradient_to_its_encoder() -> None:
    generator = torch.Generator().manual_seed(1)
    x_TD = normal(generator, 3, 4).detach()
    b_pre_D, W_enc_FD, b_enc_F = normal(generator, 4), normal(generator, 2, 4), normal(generator, 2)
    pre_TF = torch.tensor([[-1.0, 2.0], [-0.5, 1.0], [0.0, 3.0]], dtype=torch.float64)
    pattern = ActivePattern(torch.tensor([[0, 1], [1, 0], [0, 1]]), 2)
    values_TK = active_preactivations(pre_TF, x_TD, b_pre_D, W_enc_FD, b_enc_F, pattern)
    assert values_TK.tolist() == [[0.0, 2.0], [1.0, 0.0], [0.0, 3.0]]
    grad_W_FD, grad_b_F = torch.autograd.grad(values_TK.sum(), [W_enc_FD, b_enc_F])
    assert not grad_W_FD[0].any()
    assert grad_b_F.tolist() == [0.0, 3.0]


def test_latents_that_no_token_uses_get_zero_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    weight_FD = normal(generator, 6, 3)
    pattern = ActivePattern(torch.tensor([[4, 1], [1, 4]]), 6)
    out_TD = sparse_decode(torch.ones(2, 2, dtype=torch.float64), weight_FD, pattern)
    (grad_FD,) = torch.autograd.grad(out_TD.sum(), [weight_FD])
    assert grad_FD.any(dim=1).tolist() == [False, True, False, False, True, False]


def test_sums_by_feature_add_up_over_tokens() -> None:
    pattern = ActivePattern(torch.tensor([[2, 0], [0, 3], [3, 0]]), 5)
    weights_TK = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])
    assert pattern.sum_by_feature(weights_TK).tolist() == [38.0, 0.0, 1.0, 24.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_keep_the_number_format(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    indices_TK = random_pattern(4, 6, 2, generator)
    values_TK, weight_FD = (normal(generator, *shape).to(dtype).detach() for shape in ((4, 2), (6, 3)))
    values_TK.requires_grad_()
    out_TD = sparse_decode(values_TK, weight_FD, ActivePattern(indices_TK, 6))
    (grad_TK,) = torch.autograd.grad(out_TD.sum(), [values_TK])
    assert out_TD.dtype == grad_TK.dtype == dtype
