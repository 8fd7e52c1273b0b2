"""The sparse products against dense ones, in float64, with all gradients; and the selection of latents."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mistudio.sae import kernels
from mistudio.sae.kernels import (
    ActivePattern,
    active_preactivations,
    encoder_product,
    naive_decode,
    naive_preactivations,
    sparse_decode,
    sum_of_squares,
    weighted_bags,
)
from mistudio.sae.selection import _batch_top_unseen, batch_top, top_indices


def random_mask(num_tokens: int, num_features: int, share: float, generator: torch.Generator) -> Tensor:
    """Any number of latents a token, none as well."""
    return torch.rand(num_tokens, num_features, generator=generator) < share


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def gradients(out: Tensor, weights: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((out * weights).sum(), inputs))


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, float, int, int]:
    """Tokens, features, share of active latents, width, seed."""
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return draw(st.integers(1, 7)), draw(st.integers(1, 9)), share, draw(st.integers(1, 6)), draw(st.integers(0, 2**31))


@pytest.fixture(params=[0.0, 1.0], ids=["dense products", "bags of rows"])
def dense_share(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(kernels, "_DENSE_SHARE", request.param)
    return float(request.param)


@pytest.mark.usefixtures("dense_share")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes())
def test_sparse_decode_and_its_gradients_equal_the_dense_form(shape: tuple[int, int, float, int, int]) -> None:
    num_tokens, num_features, share, d_out, seed = shape
    generator = torch.Generator().manual_seed(seed)
    pattern = ActivePattern.of_mask(random_mask(num_tokens, num_features, share, generator))
    values_A, weight_FE = normal(generator, len(pattern.feature_A)), normal(generator, num_features, d_out)
    upstream_TE = normal(generator, num_tokens, d_out).detach()
    fast_TE, naive_TE = sparse_decode(values_A, weight_FE, pattern), naive_decode(values_A, weight_FE, pattern)
    torch.testing.assert_close(fast_TE, naive_TE, rtol=1e-12, atol=1e-12)
    fast, naive = (gradients(out_TE, upstream_TE, [values_A, weight_FE]) for out_TE in (fast_TE, naive_TE))
    torch.testing.assert_close(fast, naive, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("dense_share")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes())
def test_active_preactivations_and_their_gradients_equal_the_dense_form(
    shape: tuple[int, int, float, int, int],
) -> None:
    num_tokens, num_features, share, d_in, seed = shape
    generator = torch.Generator().manual_seed(seed)
    pattern = ActivePattern.of_mask(random_mask(num_tokens, num_features, share, generator))
    x_TD = normal(generator, num_tokens, d_in).detach()
    W_enc_FD, b_enc_F = normal(generator, num_features, d_in), normal(generator, num_features)
    upstream_A = normal(generator, len(pattern.feature_A)).detach()
    pre_TF = encoder_product(x_TD, W_enc_FD, b_enc_F, torch.float64)
    fast_A = active_preactivations(pre_TF, x_TD, W_enc_FD, b_enc_F, pattern)
    naive_A = naive_preactivations(x_TD, W_enc_FD, b_enc_F, pattern)
    torch.testing.assert_close(fast_A, naive_A, rtol=1e-12, atol=1e-12)
    fast, naive = (gradients(out_A, upstream_A, [W_enc_FD, b_enc_F]) for out_A in (fast_A, naive_A))
    torch.testing.assert_close(fast, naive, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("dense_share")
def test_a_narrow_encoder_product_only_selects() -> None:
    generator = torch.Generator().manual_seed(6)
    x_TD, W_enc_FD, b_enc_F = (normal(generator, *shape).detach().float() for shape in ((20, 8), (32, 8), (32,)))
    pre_TF = encoder_product(x_TD, W_enc_FD, b_enc_F, torch.bfloat16)
    pattern = ActivePattern.of_mask(pre_TF > 1)
    values_A = active_preactivations(pre_TF, x_TD, W_enc_FD, b_enc_F, pattern)
    torch.testing.assert_close(values_A, naive_preactivations(x_TD, W_enc_FD, b_enc_F, pattern))


def test_finite_differences_agree_with_the_gradients_of_both_kernels_together() -> None:
    generator = torch.Generator().manual_seed(5)
    pattern = ActivePattern.of_mask(random_mask(5, 8, 0.4, generator))
    x_TD = normal(generator, 5, 4).detach()

    def reconstruct(W_enc_FD: Tensor, b_enc_F: Tensor, W_dec_FE: Tensor) -> Tensor:
        pre_TF = encoder_product(x_TD, W_enc_FD, b_enc_F, torch.float64)
        values_A = active_preactivations(pre_TF, x_TD, W_enc_FD, b_enc_F, pattern)
        return sparse_decode(values_A, W_dec_FE, pattern)

    inputs = (normal(generator, 8, 4), normal(generator, 8), normal(generator, 8, 3))
    assert torch.autograd.gradcheck(reconstruct, inputs)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize(("width", "k"), [(64, 1), (64, 4), (64, 5), (64, 64), (1024, 32), (1000, 7), (1001, 7)])
def test_the_largest_entries_are_found_whatever_the_ties(width: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(width + k)
    pre_TF = torch.randint(-levels, levels, (50, width), generator=generator).float()
    pre_TF[:, ::3] = -torch.inf
    pre_TF[3] = -torch.inf
    indices_TK = top_indices(pre_TF, k)
    assert indices_TK.shape == (50, k)
    assert all(len(set(row)) == k for row in indices_TK.tolist())
    values_TK = pre_TF.gather(1, indices_TK).sort(dim=1, descending=True).values
    assert torch.equal(values_TK, pre_TF.topk(k, dim=1).values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, -2.5])
def test_all_positive_entries_of_sixteen_bits_come_first(shift: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    pre_TF = (torch.randn(60, 1024, generator=generator) + shift).to(dtype)
    pre_TF[7] = -1
    pre_TF[8, 5:] = -0.0
    indices_TK = top_indices(pre_TF, 24)
    assert all(len(set(row)) == 24 for row in indices_TK.tolist())
    values_TK = pre_TF.gather(1, indices_TK).relu().sort(dim=1, descending=True).values
    assert torch.equal(values_TK, pre_TF.topk(24, dim=1).values.relu())


def test_sums_of_bags_are_the_same_to_the_last_bit_in_blocks_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    matrix_RD = torch.randn(64, 200, generator=generator)
    row_A, weights_A = torch.randint(64, (2_000,), generator=generator), torch.randn(2_000, generator=generator)
    starts_B = torch.tensor([0, 0, 7, 1_500])
    whole_BD = weighted_bags(row_A, weights_A, starts_B, matrix_RD)
    monkeypatch.setattr(kernels, "_BLOCK_BYTES", 64 * 4 * 48)
    taken: list[tuple[Tensor, ...]] = []
    bag = functional.embedding_bag

    def noted(*given: Tensor, **rest: Any) -> Tensor:
        taken.append(given)
        return bag(*given, **rest)

    monkeypatch.setattr(functional, "embedding_bag", noted)
    assert torch.equal(weighted_bags(row_A, weights_A, starts_B, matrix_RD), whole_BD)
    assert [columns_RC.shape[1] for _, columns_RC, _ in taken] == [48, 48, 48, 48, 8]
    expected_D = (weights_A[7:1_500, None] * matrix_RD[row_A[7:1_500]]).sum(dim=0)
    torch.testing.assert_close(whole_BD[2], expected_D, rtol=1e-4, atol=1e-3)


def test_the_gradient_of_the_sum_of_squares() -> None:
    error_TE = normal(torch.Generator().manual_seed(5), 6, 3)
    assert sum_of_squares(error_TE).item() == pytest.approx(error_TE.square().sum().item())
    assert torch.autograd.gradcheck(sum_of_squares, (error_TE,))


@pytest.mark.parametrize("shift", [0.0, -3.0, 3.0])
@pytest.mark.parametrize("num_pairs", [1, 50, 400, 20_000])
@pytest.mark.parametrize("first_rows", [1.0, 100.0], ids=["even", "a few rows hold most"])
@pytest.mark.parametrize("tokens", [304, 299], ids=["whole groups", "no groups"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_largest_entries_of_a_batch_are_found(
    device: str, tokens: int, num_pairs: int, shift: float, first_rows: float
) -> None:
    generator = torch.Generator().manual_seed(num_pairs)
    pre_TF = torch.randn(tokens, 63, generator=generator) + shift
    pre_TF[1:4] *= first_rows  # not among the rows that the cut is guessed from
    pattern = batch_top(pre_TF, num_pairs) if device == "cpu" else _batch_top_unseen(pre_TF, num_pairs)
    values = pattern.gather(pre_TF).sort(descending=True).values
    assert (values > 0).all() if device == "cpu" else len(values) == min(num_pairs, pre_TF.numel())
    expected = pre_TF[pre_TF > 0].sort(descending=True).values[:num_pairs]
    assert torch.equal(values[values > 0], expected)
    assert (pattern.place_A.diff() > 0).all()
    assert torch.equal(pattern.starts_T, (pattern.token_A < torch.arange(tokens)[:, None]).sum(dim=1).to(torch.int32))


@pytest.mark.parametrize("select", [batch_top, _batch_top_unseen], ids=["cpu", "gpu"])
@pytest.mark.parametrize("shape", [(0, 63), (5, 0)])
def test_of_an_empty_batch_nothing_is_found(
    select: Callable[[Tensor, int], ActivePattern], shape: tuple[int, int]
) -> None:
    pattern = select(torch.empty(shape), 7)
    assert (len(pattern.feature_A), len(pattern.starts_T)) == (0, shape[0])


def test_latents_that_no_token_uses_get_zero_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    weight_FE = normal(generator, 6, 3)
    pattern = ActivePattern.of_indices(torch.tensor([[4, 1], [1, 4]]), 6)
    out_TE = sparse_decode(torch.ones(4, dtype=torch.float64), weight_FE, pattern)
    (grad_FE,) = torch.autograd.grad(out_TE.sum(), [weight_FE])
    assert grad_FE.any(dim=1).tolist() == [False, True, False, False, True, False]


def test_a_pattern_is_the_same_from_indices_and_from_a_mask() -> None:
    indices_TK = torch.tensor([[0, 2], [1, 2], [0, 1]])
    of_mask = ActivePattern.of_mask(torch.zeros(3, 4).scatter_(1, indices_TK, 1).bool())
    of_indices = ActivePattern.of_indices(indices_TK, 4)
    for name in ("feature_A", "starts_T", "token_A"):
        made, expected = getattr(of_indices, name), getattr(of_mask, name)
        assert made.tolist() == expected.tolist()
        assert made.dtype == expected.dtype == torch.int32


def test_sums_by_feature_add_up_over_tokens() -> None:
    pattern = ActivePattern.of_indices(torch.tensor([[2, 0], [0, 3], [3, 0]]), 5)
    weights_A = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert pattern.sum_by_feature(weights_A).tolist() == [38.0, 0.0, 1.0, 24.0, 0.0]


def test_the_transposed_view_holds_beyond_sixteen_bits() -> None:
    pattern = ActivePattern.of_indices(torch.tensor([[70_000, 3], [3, 40_000]]), 70_001)
    tokens_FD = pattern.weighted_tokens(torch.ones(4), torch.tensor([[1.0], [10.0]]))
    assert {int(row): float(tokens_FD[row]) for row in tokens_FD.nonzero()[:, 0]} == {
        3: 11.0,
        40_000: 10.0,
        70_000: 1.0,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_keep_the_number_format(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    pattern = ActivePattern.of_mask(random_mask(4, 6, 0.5, generator))
    values_A = normal(generator, len(pattern.feature_A)).to(dtype).detach().requires_grad_()
    out_TE = sparse_decode(values_A, normal(generator, 6, 3).to(dtype).detach(), pattern)
    (grad_A,) = torch.autograd.grad(out_TE.sum(), [values_A])
    assert out_TE.dtype == grad_A.dtype == dtype
