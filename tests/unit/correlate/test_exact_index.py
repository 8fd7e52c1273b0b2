"""Brute force is what it says, and refuses what has no answer."""

import numpy as np
import pytest
import torch

from mistudio.correlate.index import exact_index
from mistudio.correlate.index.directions_index import ExactIndex
from mistudio.correlate.index.nearest import Nearest
from mistudio.errors import DamagedArtifact, InputError
from tests.support.decoders import decoder_rows

DRAW = np.random.default_rng(7)


def naive(decoder_FD: np.ndarray, vector_QD: np.ndarray, count: int) -> Nearest:
    """All cosines in float64, sorted."""
    rows_FD, query_QD = torch.from_numpy(decoder_FD).double(), torch.from_numpy(np.asarray(vector_QD)).double()
    cosine_QF = torch.nn.functional.cosine_similarity(query_QD[:, None], rows_FD[None], dim=2).numpy()
    order_QF = np.stack([np.lexsort((np.arange(len(row)), -row)) for row in cosine_QF])[:, :count]
    return Nearest(order_QF, np.take_along_axis(cosine_QF, order_QF, axis=1).astype(np.float32))


@pytest.mark.parametrize("block", [1 << 23, 100, 1])
def test_brute_force_in_blocks_finds_what_sorting_all_cosines_finds(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_index, "_BLOCK_COSINES", max(block, 3))
    monkeypatch.setattr(exact_index, "_QUERIES_AT_ONCE", 3)
    rows_FD, query_QD = decoder_rows(150, 12), DRAW.standard_normal((7, 12))
    found, expected = ExactIndex(rows_FD).search(query_QD, 9), naive(rows_FD, query_QD, 9)
    np.testing.assert_array_equal(found.feature_QK, expected.feature_QK)
    np.testing.assert_allclose(found.cosine_QK, expected.cosine_QK, atol=1e-6)
    assert (found.feature_QK.dtype, found.cosine_QK.dtype) == (np.int64, np.float32)


def test_of_equal_cosines_the_smaller_number_comes_first_and_lengths_do_not_count() -> None:
    rows_FD = np.tile(np.float32([[0, 2, 0], [1, 0, 0]]), (40, 1)) * np.float32(2.0) ** np.arange(80)[:, None]
    found = ExactIndex(rows_FD).search(np.float32([[0, 1, 0]]), 5)
    assert found.feature_QK.tolist() == [[0, 2, 4, 6, 8]]
    assert found.cosine_QK.tolist() == [[1.0] * 5]


def test_where_more_are_asked_for_than_there_are_all_are_given_best_first() -> None:
    rows_FD, query_QD = decoder_rows(30, 8), DRAW.standard_normal((2, 8))
    found = ExactIndex(rows_FD).search(query_QD, 1000)
    assert [sorted(row) for row in found.feature_QK.tolist()] == [list(range(30))] * 2
    assert (np.diff(found.cosine_QK) <= 0).all()
    assert found.cosine_QK[:, -1].max() < 0


def test_a_feature_without_a_direction_has_cosine_zero() -> None:
    rows_FD = decoder_rows(20, 8)
    rows_FD[3], rows_FD[4] = 0, np.float32(1e-45)
    found = ExactIndex(rows_FD).search(DRAW.standard_normal((4, 8)), 20)
    assert (found.cosine_QK[(found.feature_QK == 3) | (found.feature_QK == 4)] == 0).all()
    assert np.isfinite(found.cosine_QK).all()


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_length_of_a_query_does_not_matter(scale: float) -> None:
    rows_FD, query_QD = decoder_rows(50, 8), DRAW.standard_normal((1, 8))
    found, expected = (ExactIndex(rows_FD).search(each, 5) for each in (query_QD * scale, query_QD))
    np.testing.assert_array_equal(found.feature_QK, expected.feature_QK)
    np.testing.assert_allclose(found.cosine_QK, expected.cosine_QK, atol=1e-6)


def test_no_queries_have_no_answers() -> None:
    found = ExactIndex(decoder_rows(50, 8)).search(np.empty((0, 8)), 5)
    assert found.feature_QK.shape == found.cosine_QK.shape == (0, 5)


@pytest.mark.parametrize(
    ("vectors", "count", "says"),
    [
        (np.ones((1, 8)), 0, "count 0 is out of range: ask for at least 1"),
        (np.ones((1, 8)), -3, "count -3 is out of range"),
        (np.ones((1, 9)), 1, r"have shape \[1, 9\]: give \[queries, 8\]"),
        (np.ones(8), 1, r"have shape \[8\]"),
        (np.array([[1.0] * 8, [1.0] * 7 + [np.nan]]), 1, "Vector 1 holds a value that is no finite number"),
        (np.full((1, 8), np.inf), 1, "Vector 0 holds a value that is no finite number"),
        (np.array([[1.0] * 8, [0.0] * 8]), 1, "Vector 1 is zero: it points nowhere"),
    ],
)
def test_what_has_no_answer_is_refused(vectors: np.ndarray, count: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ExactIndex(decoder_rows(20, 8)).search(vectors, count)


def test_a_decoder_with_a_number_that_is_not_finite_is_refused() -> None:
    rows_FD = decoder_rows(20, 8)
    rows_FD[7, 2] = np.nan
    with pytest.raises(DamagedArtifact, match="Decoder row 7 holds a value that is no finite number"):
        ExactIndex(rows_FD)
