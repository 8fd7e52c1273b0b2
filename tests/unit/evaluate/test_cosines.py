"""Blockwise cosines and matchings against brute force."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mistudio.evaluate import cosines
from mistudio.evaluate.cosines import largest_cosines, match_rows

EXACT, CANDIDATES = 10**6, 1


def rows(num_rows: int, width: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, width, generator=generator) * torch.rand(num_rows, 1, generator=generator) * 9


def dense_cosines(a_FD: Tensor, b_GD: Tensor) -> np.ndarray:
    a, b = a_FD.double().numpy(), b_GD.double().numpy()
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


@pytest.fixture(params=[1, 100, 1 << 22], ids=lambda size: f"blocks of {size}")
def _block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_BLOCK_COSINES", request.param)


@pytest.mark.usefixtures("_block_size")
def test_largest_cosine_with_another_row_is_that_of_the_dense_matrix() -> None:
    a_FD = rows(37)
    expected = dense_cosines(a_FD, a_FD)
    np.fill_diagonal(expected, -np.inf)
    np.testing.assert_allclose(largest_cosines(a_FD).numpy(), expected.max(axis=1), rtol=1e-5)


@pytest.mark.usefixtures("_block_size")
def test_largest_cosine_with_another_dictionary_is_that_of_the_dense_matrix() -> None:
    a_FD, b_GD = rows(37), rows(50, seed=1)
    np.testing.assert_allclose(largest_cosines(a_FD, b_GD).numpy(), dense_cosines(a_FD, b_GD).max(axis=1), rtol=1e-5)


def test_opposite_directions_are_not_alike_and_doubled_ones_are() -> None:
    a_FD = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [3.0, 0.0]])
    assert largest_cosines(a_FD).tolist() == [1.0, -1.0, 1.0]


def test_a_row_of_zeros_is_like_no_other() -> None:
    assert largest_cosines(torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.usefixtures("_block_size")
def test_no_matching_has_a_larger_sum_of_cosines() -> None:
    a_FD, b_FD = rows(6), rows(6, seed=1)
    every = dense_cosines(a_FD, b_FD)
    best = max(sum(every[range(6), order]) for order in itertools.permutations(range(6)))
    partner, cosine = match_rows(a_FD, b_FD, EXACT)
    assert sorted(partner) == list(range(6))
    np.testing.assert_allclose(cosine, every[range(6), partner], rtol=1e-5)
    assert cosine.sum() == pytest.approx(best, rel=1e-5)


def test_matching_is_one_to_one_where_nearest_rows_are_not() -> None:
    a_FD = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    b_FD = torch.tensor([[1.0, 0.05], [0.0, 1.0]])
    assert largest_cosines(a_FD, b_FD).min() > 0.99
    _, cosine = match_rows(a_FD, b_FD, EXACT)
    assert sorted(cosine > 0.99) == [False, True]


@pytest.mark.parametrize("exact_width", [EXACT, CANDIDATES])
def test_a_shuffled_dictionary_is_matched_row_for_row(exact_width: int) -> None:
    a_FD = rows(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    partner, cosine = match_rows(a_FD, 3 * a_FD[order], exact_width)
    assert (order[partner] == torch.arange(200)).all()
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


def test_matching_among_the_nearest_falls_short_of_the_best_by_little() -> None:
    a_FD, b_FD = rows(300), rows(300, seed=1)
    best = match_rows(a_FD, b_FD, EXACT)[1]
    partner, cosine = match_rows(a_FD, b_FD, CANDIDATES)
    assert sorted(partner) == list(range(300))
    np.testing.assert_allclose(cosine, dense_cosines(a_FD, b_FD)[range(300), partner], rtol=1e-4)
    assert best.mean() - 0.02 < cosine.mean() <= best.mean() + 1e-6


def test_all_blocks_are_in_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_BLOCK_COSINES", 40)
    rows_FD = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    blocks = list(cosines.cosine_blocks(rows_FD, rows_FD))  # all alive, so that no memory is freed and used again
    assert [(start, len(block_RG)) for start, block_RG in blocks] == [(0, 4), (4, 4), (8, 2)]
    assert len({block_RG.data_ptr() for _, block_RG in blocks}) == 1
