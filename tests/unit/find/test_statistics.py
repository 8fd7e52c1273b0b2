"""Counts, sums and histograms against numpy on all values at once."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from mistudio.find.statistics import NUM_BINS, FeatureStatistics, histogram_edges
from mistudio.sae import ActiveLatents

FEATURES, SPREAD = 6, 0.375  # a float32, as are then the edges an octave apart


@pytest.fixture(scope="module")
def acts_NF() -> Tensor:
    """Activations over many orders of magnitude; feature 4 never fires."""
    generator = torch.Generator().manual_seed(0)
    acts_NF = torch.randn(3_000, FEATURES, generator=generator).mul(3).exp() * SPREAD
    acts_NF[torch.rand(3_000, FEATURES, generator=generator) < 0.7] = 0
    acts_NF[:, 4] = 0
    return acts_NF


def active(acts_NF: Tensor) -> ActiveLatents:
    token_A, feature_A = acts_NF.nonzero(as_tuple=True)
    return ActiveLatents(token_A, feature_A, acts_NF[token_A, feature_A])


def count(acts_NF: Tensor, chunk: int) -> FeatureStatistics:
    statistics = FeatureStatistics(FEATURES, SPREAD)
    for part in acts_NF.split(chunk):
        statistics.update(active(part), len(part))
    return statistics


@pytest.mark.parametrize("chunk", [3_000, 700, 1])
def test_statistics_equal_those_of_all_values_at_once(acts_NF: Tensor, chunk: int) -> None:
    statistics = count(acts_NF, chunk)
    values = acts_NF.double().numpy()
    fires = values > 0
    assert statistics.num_tokens == 3_000
    assert statistics.count_F.tolist() == fires.sum(axis=0).tolist()
    np.testing.assert_allclose(statistics.sum_F.numpy(), values.sum(axis=0), rtol=1e-12)
    assert statistics.max_F.tolist() == acts_NF.amax(dim=0).tolist()
    mean = values.sum(axis=0) / np.maximum(fires.sum(axis=0), 1)
    np.testing.assert_allclose(statistics.mean_F, mean, rtol=1e-12)
    edges = np.array([0.0, *histogram_edges(SPREAD)[1:-1], np.inf])  # the outer bins take what lies beyond
    for feature in range(FEATURES):
        expected, _ = np.histogram(values[fires[:, feature], feature], edges)
        assert statistics.histogram_FH[feature].tolist() == expected.tolist()


def test_the_histogram_holds_every_activation(acts_NF: Tensor) -> None:
    statistics = count(acts_NF, 500)
    assert statistics.histogram_FH.sum(dim=1).tolist() == statistics.count_F.tolist()
    assert statistics.histogram_FH[:, 0].any()
    assert statistics.histogram_FH[:, -1].any()


def test_a_feature_that_never_fires_has_zeros(acts_NF: Tensor) -> None:
    statistics = count(acts_NF, 500)
    assert statistics.count_F[4] == statistics.max_F[4] == statistics.mean_F[4] == 0
    assert not statistics.histogram_FH[4].any()


def test_edges_are_four_an_octave_around_the_spread() -> None:
    edges = histogram_edges(SPREAD)
    assert len(edges) == NUM_BINS + 1
    assert edges[NUM_BINS // 2] == SPREAD
    assert edges[0] == pytest.approx(SPREAD / 256)
    assert edges[-1] == pytest.approx(SPREAD * 256)
    assert edges[NUM_BINS // 2 + 4] == pytest.approx(2 * SPREAD)


@pytest.mark.parametrize("edge", [1, 20, 32, 33, 50, 63])
def test_a_value_on_an_edge_belongs_to_the_bin_above(edge: int) -> None:
    limit = histogram_edges(SPREAD)[edge]
    above = np.float32(limit)
    if float(above) < limit:
        above = np.nextafter(above, np.float32(np.inf))
    below = np.nextafter(above, np.float32(0))
    statistics = FeatureStatistics(1, SPREAD)
    statistics.update(active(torch.tensor([[float(above)], [float(below)]])), 2)
    assert statistics.histogram_FH[0].nonzero().flatten().tolist() == [edge - 1, edge]


def test_counting_goes_on_from_a_saved_state(acts_NF: Tensor) -> None:
    whole, half = count(acts_NF, 1_500), count(acts_NF[:1_500], 1_500)
    resumed = FeatureStatistics(FEATURES, SPREAD)
    resumed.load_state_dict(load(save(half.state_dict())))
    resumed.update(active(acts_NF[1_500:]), 1_500)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
