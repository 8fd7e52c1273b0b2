"""Neighbours, groups and the map against dense matrices."""

import numpy as np
import pytest
import torch
from scipy import sparse

from mistudio.evaluate import cosines
from mistudio.find import neighbours
from mistudio.find.neighbours import Nearest, fire_together, near_duplicates, nearest_directions
from mistudio.find.projection import lay_out
from mistudio.find.sample import Sample

FEATURES, TOKENS, COUNT = 30, 400, 4


@pytest.fixture(scope="module")
def sample() -> Sample:
    rng = np.random.default_rng(0)
    acts_NF = rng.random((TOKENS, FEATURES)).astype(np.float32) * (rng.random((TOKENS, FEATURES)) < 0.15)
    acts_NF[:, 1] = acts_NF[:, 0] * 2  # always together
    acts_NF[:, 2] = 0  # never fires
    acts_NF[:, 3] = 0
    acts_NF[:4, 3] = acts_NF[:4, 0] = 1  # together, but on four tokens only
    nothing = np.zeros(TOKENS, np.int32)
    place = np.arange(TOKENS)
    return Sample(nothing, nothing, nothing, nothing, place, place + 1, sparse.csr_array(acts_NF))


def dense(sample: Sample) -> dict[str, np.ndarray]:
    acts_NF = sample.acts_NF.toarray().astype(np.float64)
    fires_NF = (acts_NF > 0).astype(np.float64)
    both_FF, count_F = fires_NF.T @ fires_NF, fires_NF.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        measures = {
            "correlation": np.corrcoef(acts_NF.T),
            "pmi": np.log(both_FF * TOKENS / np.outer(count_F, count_F)),
            "jaccard": both_FF / (count_F[:, None] + count_F - both_FF),
        }
    for values_FF in measures.values():
        values_FF[(both_FF < 5) | np.eye(FEATURES, dtype=bool)] = -np.inf
    return measures


@pytest.mark.parametrize("block", [1 << 22, 7 * FEATURES])
def test_features_that_fire_together_are_those_of_dense_matrices(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_PAIRS", block)
    found = fire_together(sample, COUNT)
    for name, values_FF in dense(sample).items():
        for feature in range(FEATURES):
            order = np.argsort(-values_FF[feature], kind="stable")[:COUNT]
            expected = [other for other in order if values_FF[feature, other] > -np.inf]
            assert found[name].other[feature][: len(expected)].tolist() == expected
            assert (found[name].other[feature][len(expected) :] == -1).all()
            np.testing.assert_allclose(
                found[name].value[feature][: len(expected)], values_FF[feature, expected], rtol=1e-5
            )
    assert found["correlation"].other[1, 0] == 0
    assert found["correlation"].value[1, 0] == pytest.approx(1, abs=0.15)
    assert (found["jaccard"].other[2] == -1).all()
    assert 3 not in found["pmi"].other[0]


def test_what_is_multiplied_is_bounded_by_leaving_out_tokens(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_MAX_PAIRS", 2_000)
    active_N = np.diff(sample.acts_NF.indptr)
    affordable = int(np.searchsorted((active_N**2).cumsum(), 2_000, side="right"))
    assert 20 < affordable < TOKENS
    cut = sample._replace(acts_NF=sample.acts_NF[:affordable])
    found, expected = fire_together(sample, COUNT), fire_together(cut, COUNT)
    for name in expected:
        assert np.array_equal(found[name].other, expected[name].other)


@pytest.mark.parametrize("block", [1 << 22, 5 * FEATURES])
def test_nearest_directions_are_those_of_the_matrix_of_cosines(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(cosines, "_BLOCK_COSINES", block)
    W_dec_FD = torch.randn(FEATURES, 6, generator=torch.Generator().manual_seed(0)) * 3
    unit_FD = torch.nn.functional.normalize(W_dec_FD, dim=1)
    cosines_FF = unit_FD @ unit_FD.T - 3 * torch.eye(FEATURES)
    top = cosines_FF.topk(COUNT, dim=1)
    found = nearest_directions(W_dec_FD, COUNT)
    assert np.array_equal(found.other, top.indices.numpy())
    np.testing.assert_allclose(found.value, top.values.numpy(), rtol=1e-5, atol=1e-6)


def test_near_duplicates_hang_together_and_are_named_by_the_smallest() -> None:
    other = np.array([[1], [2], [1], [4], [3], [0]], dtype=np.int32)
    value = np.array([[0.95], [0.95], [0.95], [0.99], [0.5], [0.2]], dtype=np.float32)
    assert near_duplicates(Nearest(other, value), 0.9).tolist() == [0, 0, 0, 3, 3, -1]
    assert near_duplicates(Nearest(other, value), 0.999).tolist() == [-1] * 6


def test_the_map_keeps_families_of_directions_together_and_is_the_same_again() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=generator)
    W_dec_FD = centres.repeat_interleave(25, dim=0) + 0.15 * torch.randn(75, 16, generator=generator)
    threads = torch.get_num_threads()
    projection = lay_out(W_dec_FD, seed=1)
    assert torch.get_num_threads() == threads  # numba would change it
    assert projection.place.shape == (75, 2)
    families = projection.cluster.reshape(3, 25)
    assert all(len(set(family.tolist())) == 1 for family in families)
    assert len({family[0] for family in families}) == 3
    again = lay_out(W_dec_FD, seed=1)
    assert projection.place.tobytes() == again.place.tobytes()
    assert projection.cluster.tobytes() == again.cluster.tobytes()


def test_few_directions_are_laid_out_by_their_principal_components() -> None:
    W_dec_FD = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    projection = lay_out(W_dec_FD, seed=0)
    np.testing.assert_allclose(np.abs(projection.place), [[3, 0], [3, 0], [0, 1], [0, 1]], atol=1e-6)
    assert projection.cluster.tolist() == [0] * 4
    assert lay_out(torch.ones(1, 3), seed=0).place.tolist() == [[0, 0]]
