"""What test_triton_kernels.py runs in a process of its own: the Triton kernels against the dense references.

Triton reads ``TRITON_INTERPRET`` once, when it is first imported. With it, all of this runs on a CPU; without it, on
a GPU. Shapes are tiny, since the interpreter is slow; so are tiles and pieces, so that there are several.
"""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mistudio.sae import BatchTopKConfig, JumpReLUConfig, Stage, TopKConfig, kernels, new_autoencoder
from mistudio.sae import triton_kernels as products
from mistudio.sae import triton_selection as selection
from mistudio.sae.config import ArchitectureConfig
from mistudio.sae.kernels import (
    ActivePattern,
    active_preactivations,
    encoder_product,
    naive_decode,
    naive_preactivations,
    sparse_decode,
)
from mistudio.sae.selection import top_indices

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
TOKENS, FEATURES = 11, 7


def ragged() -> Tensor:
    """Tokens and latents with nothing, and a latent active on all other tokens."""
    mask_TF = torch.rand(TOKENS, FEATURES, generator=torch.Generator().manual_seed(3)) < 0.3
    mask_TF[:, 2] = True
    mask_TF[:, 5] = False
    mask_TF[[0, 4, 10]] = False
    return mask_TF


def one_pair() -> Tensor:
    mask_TF = torch.zeros(3, FEATURES, dtype=torch.bool)
    mask_TF[1, FEATURES - 1] = True
    return mask_TF


MASKS: dict[str, Callable[[], Tensor]] = {
    "ragged": ragged,
    "no pair": lambda: torch.zeros(3, FEATURES, dtype=torch.bool),
    "one pair": one_pair,
    "all pairs": lambda: torch.ones(6, 3, dtype=torch.bool),
}


@pytest.fixture(autouse=True)
def many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRITON", "1")
    monkeypatch.setattr(kernels, "_DENSE_SHARE", 1.0)
    monkeypatch.setattr(products, "_PIECE", 4)
    monkeypatch.setattr(products, "_MAX_COLUMNS", 16)
    monkeypatch.setattr(products, "_MAX_PAIRS", 4)
    monkeypatch.setattr(selection, "_NARROW", 16)
    monkeypatch.setattr(selection, "_TILE", 64)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels' wrappers, as they are called."""
    seen: list[str] = []
    for module, names in ((products, ("bag_sums", "split_bag_sums", "pair_products")), (selection, ("top_indices",))):
        for name in names:
            monkeypatch.setattr(module, name, counted(name, getattr(module, name), seen))
    return seen


def counted(name: str, function: Callable[..., Tensor], seen: list[str]) -> Callable[..., Tensor]:
    def call(*args: object) -> Tensor:
        seen.append(name)
        return function(*args)

    return call


def normal(seed: int, *shape: int, dtype: torch.dtype) -> Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).to(DEVICE).requires_grad_()


def pattern_of(mask: str) -> ActivePattern:
    return ActivePattern.of_mask(MASKS[mask]().to(DEVICE))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 20), (torch.float64, 1)])
def test_decode_and_its_gradients_equal_the_reference(
    mask: str, dtype: torch.dtype, width: int, calls: list[str]
) -> None:
    pattern = pattern_of(mask)
    values_A = normal(1, len(pattern.feature_A), dtype=dtype)
    weight_FE = normal(2, pattern.num_features, width, dtype=dtype)
    upstream_TE = normal(3, pattern.num_tokens, width, dtype=dtype).detach()
    fast_TE, naive_TE = sparse_decode(values_A, weight_FE, pattern), naive_decode(values_A, weight_FE, pattern)
    torch.testing.assert_close(fast_TE, naive_TE)
    fast, naive = (torch.autograd.grad(out, [values_A, weight_FE], upstream_TE) for out in (fast_TE, naive_TE))
    torch.testing.assert_close(fast, naive)
    assert calls == ["bag_sums", "pair_products", "split_bag_sums"]


@pytest.mark.parametrize("mask", MASKS)
def test_preactivations_and_their_gradients_equal_the_reference(mask: str) -> None:
    pattern = pattern_of(mask)
    x_TD = normal(4, pattern.num_tokens, 20, dtype=torch.float32).detach()
    weights = [
        normal(5, pattern.num_features, 20, dtype=torch.float32),
        normal(6, pattern.num_features, dtype=x_TD.dtype),
    ]
    upstream_A = normal(7, len(pattern.feature_A), dtype=torch.float32).detach()
    pre_TF = encoder_product(x_TD, *weights, torch.bfloat16)
    fast_A = active_preactivations(pre_TF, x_TD, *weights, pattern)
    naive_A = naive_preactivations(x_TD, *weights, pattern)
    torch.testing.assert_close(fast_A, naive_A)
    fast, naive = (torch.autograd.grad(out, weights, upstream_A) for out in (fast_A, naive_A))
    torch.testing.assert_close(fast, naive)


def test_a_decoder_in_bfloat16_is_summed_in_float32() -> None:
    pattern = pattern_of("ragged")
    values_A = normal(1, len(pattern.feature_A), dtype=torch.float32).detach()
    weight_FE = normal(2, FEATURES, 20, dtype=torch.bfloat16).detach()
    rebuilt_TE = pattern.weighted_rows(values_A, weight_FE)
    torch.testing.assert_close(rebuilt_TE, naive_decode(values_A, weight_FE.float(), pattern))
    products_A = pattern.products(rebuilt_TE, weight_FE)
    torch.testing.assert_close(products_A, pattern.gather(rebuilt_TE @ weight_FE.float().T))


def test_a_latent_active_on_every_token_is_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    indices_TK = torch.tensor([[1, 0], [1, 2]] * 9, device=DEVICE)
    pattern = ActivePattern.of_indices(indices_TK, 3)
    weights_A, x_TD = (normal(seed, *shape, dtype=torch.float64).detach() for seed, shape in ((1, (36,)), (2, (18, 5))))
    expected_FD = pattern.scatter(weights_A).T @ x_TD
    for piece in (1, 3, 4, 9, 36, 64):
        monkeypatch.setattr(products, "_PIECE", piece)
        torch.testing.assert_close(pattern.weighted_tokens(weights_A, x_TD), expected_FD)


def test_the_same_numbers_give_the_same_bits() -> None:
    pattern = pattern_of("ragged")
    weights_A = normal(1, len(pattern.feature_A), dtype=torch.float32).detach()
    matrices = [normal(seed, rows, 20, dtype=torch.float32).detach() for seed, rows in ((2, TOKENS), (3, FEATURES))]

    def results() -> tuple[Tensor, ...]:
        fresh = ActivePattern.of_mask(ragged().to(DEVICE))
        return (
            fresh.weighted_rows(weights_A, matrices[1]),
            fresh.weighted_tokens(weights_A, matrices[0]),
            fresh.products(*matrices),
            fresh.sum_by_feature(weights_A),
        )

    assert all(torch.equal(first, second) for first, second in zip(results(), results(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "k"), [(16, 1), (13, 13), (64, 64), (64, 1), (101, 5), (100, 30)])
def test_the_largest_entries_are_found(width: int, k: int, dtype: torch.dtype, calls: list[str]) -> None:
    pre_TF = normal(width, 5, width, dtype=dtype).detach()
    pre_TF[0] = 1 + torch.arange(width).to(pre_TF) * torch.finfo(dtype).eps  # neighbours: every bit counts
    pre_TF[1] -= 10
    pre_TF[2] = pre_TF[2].round()  # ties
    pre_TF[3, ::2] = -torch.inf
    pre_TF[4] = -torch.inf
    indices_TK = top_indices(pre_TF, k)
    assert calls == ["top_indices"]
    assert indices_TK.dtype == torch.int64
    assert (indices_TK.diff(dim=1) > 0).all()
    values_TK = pre_TF.gather(1, indices_TK).sort(dim=1, descending=True).values
    assert torch.equal(values_TK, pre_TF.topk(k, dim=1).values)


@pytest.mark.parametrize("narrow", [16, 64], ids=["by groups", "at once"])
def test_of_equal_values_the_first_are_taken(narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_NARROW", narrow)
    pre_TF = torch.zeros(2, 64, device=DEVICE)
    pre_TF[1, [7, 40, 63]] = torch.tensor([1.0, 2.0, 1.0], device=DEVICE)
    assert top_indices(pre_TF, 4).tolist() == [[0, 1, 2, 3], [0, 7, 40, 63]]


@pytest.mark.parametrize(
    "config",
    [
        TopKConfig(width=64, k=3),
        BatchTopKConfig(width=64, k=3),
        JumpReLUConfig(width=64),
    ],
    ids=lambda config: config.architecture,
)
def test_a_training_step_equals_one_on_a_cpu_without_triton(
    config: ArchitectureConfig, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(8)
    x_TD = torch.randn(6, 8, generator=generator)
    training = new_autoencoder(config, 8).for_training()
    training.initialise(x_TD, generator)
    dead_F = torch.tensor([1, 4, 5, 9, 11, 15, 40, 63])

    def step(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        training.to(device).zero_grad()
        batch_TD = x_TD.to(device)
        losses = training.losses(batch_TD, batch_TD, Stage(0.5, dead_F.to(device)))
        losses.total.backward()
        gradients = {name: each.grad.cpu() for name, each in training.named_parameters() if each.grad is not None}
        found = {"total": losses.total.detach(), "fired": losses.fired_F, **losses.parts}
        return {name: value.cpu() for name, value in found.items()}, gradients

    fast = step(DEVICE)
    assert {"bag_sums", "split_bag_sums"} <= set(calls)
    calls.clear()
    monkeypatch.setenv("MISTUDIO_TRITON", "0")
    torch.testing.assert_close(fast, step(torch.device("cpu")))
    assert not calls


def test_a_format_without_a_kernel_goes_to_pytorch() -> None:
    pre_TF = normal(9, 3, 64, dtype=torch.float64).detach()
    assert torch.equal(top_indices(pre_TF, 5).sort().values, pre_TF.topk(5).indices.sort().values)


@pytest.mark.skipif(INTERPRETED, reason="too slow for the interpreter")
def test_full_sizes_equal_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    width, k, d_in = 32_768, 32, 768
    pre_TF = normal(1, 2048, width, dtype=torch.float32).detach()
    pre_TF[:, 5] += 20
    indices_TK = top_indices(pre_TF, k)
    assert torch.equal(indices_TK, pre_TF.topk(k, dim=1).indices.sort(dim=1).values)
    pattern = ActivePattern.of_indices(indices_TK, width)
    weights_A = pattern.gather(pre_TF)
    x_TD, weight_FD = normal(2, 2048, d_in, dtype=torch.float32), normal(3, width, d_in, dtype=torch.float32)
    dense_TF = pattern.scatter(weights_A.double())
    for fast, naive in (
        (pattern.weighted_rows(weights_A, weight_FD), dense_TF @ weight_FD.double()),
        (pattern.weighted_tokens(weights_A, x_TD), dense_TF.T @ x_TD.double()),
        (pattern.products(x_TD, weight_FD), pattern.gather(x_TD.double() @ weight_FD.double().T)),
        (pattern.sum_by_feature(weights_A), dense_TF.sum(dim=0)),
    ):
        torch.testing.assert_close(fast, naive.float(), rtol=1e-4, atol=1e-3)
