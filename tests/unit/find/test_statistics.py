"""Counts, sums and histograms against numpy on all values at once."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from mistudio.find.statistics import NUM_BINS, QUANTILES, FeatureStatistics, histogram_edges
from mistudio.sae import ActiveLatents

FEATURES, STD = 6, 0.375  # a float32, as are then the edges an octave apart


@pytest.fixture(scope="module")
def acts_NF() -> Tensor:
    """Activations over many orders of magnitude; feature 4 never fires."""
    generator = torch.Generator().manual_seed(0)
    acts_NF = torch.randn(3_000, FEATURES, generator=generator).mul(3).exp() * STD
    acts_NF[torch.rand(3_000, FEATURES, generator=generator) < 0.7] = 0
    acts_NF[:, 4] = 0
    return acts_NF


def active(acts_NF: Tensor) -> ActiveLatents:
    token_A, feature_A = acts_NF.nonzero(as_tuple=True)
    return ActiveLatents(token_A, feature_A, acts_NF[token_A, feature_A])


def count(acts_NF: Tensor, chunk: int) -> FeatureStatistics:
    statistics = FeatureStatistics(FEATURES, STD)
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
    assert statistics.max_F.tolist() == acts_NF.amax(dim=0).tolist()
    mean = values.sum(axis=0) / np.maximum(fires.sum(axis=0), 1)
    np.testing.assert_allclose(statistics.mean_F, mean, rtol=1e-7, atol=STD * 2**-24)
    edges = np.array([0.0, *histogram_edges(STD)[1:-1], np.inf])  # the outer bins take what lies beyond
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


def test_edges_are_four_an_octave_around_the_standard_deviation() -> None:
    edges = histogram_edges(STD)
    assert len(edges) == NUM_BINS + 1
    assert edges[NUM_BINS // 2] == STD
    assert edges[0] == pytest.approx(STD / 256)
    assert edges[-1] == pytest.approx(STD * 256)
    assert edges[NUM_BINS // 2 + 4] == pytest.approx(2 * STD)
    assert edges == pytest.approx([STD * 2 ** ((edge - 32) / 4) for edge in range(65)], rel=2**-8)


@pytest.mark.parametrize("edge", [1, 20, 32, 33, 50, 63])
def test_a_value_on_an_edge_belongs_to_the_bin_above(edge: int) -> None:
    limit = histogram_edges(STD)[edge]
    above = np.float32(limit)
    if float(above) < limit:
        above = np.nextafter(above, np.float32(np.inf))
    below = np.nextafter(above, np.float32(0))
    statistics = FeatureStatistics(1, STD)
    statistics.update(active(torch.tensor([[float(above)], [float(below)]])), 2)
    assert statistics.histogram_FH[0].nonzero().flatten().tolist() == [edge - 1, edge]


def test_counting_goes_on_from_a_saved_state(acts_NF: Tensor) -> None:
    whole, half = count(acts_NF, 1_500), count(acts_NF[:1_500], 1_500)
    resumed = FeatureStatistics(FEATURES, STD)
    resumed.load_state_dict(load(save(half.state_dict())))
    resumed.update(active(acts_NF[1_500:]), 1_500)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_statistics_of_parts_add_up_to_the_same_bytes_in_any_order(acts_NF: Tensor) -> None:
    whole = count(acts_NF, 3_000).state_dict()
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = FeatureStatistics(FEATURES, STD)
        for part in order:
            merged.merge(count(acts_NF[part * 1_000 : (part + 1) * 1_000], 170).state_dict())
        assert all(torch.equal(merged.state_dict()[name], value) for name, value in whole.items())


def test_quantiles_are_within_a_bin_of_the_exact_ones(acts_NF: Tensor) -> None:
    found_FQ = count(acts_NF, 500).quantiles()
    for feature in range(FEATURES):
        values = acts_NF[:, feature][acts_NF[:, feature] > 0].numpy()
        if not len(values):
            assert not found_FQ[feature].any()
            continue
        exact = np.quantile(values, QUANTILES)
        inside = (exact > histogram_edges(STD)[1]) & (exact < histogram_edges(STD)[-2])
        np.testing.assert_allclose(found_FQ[feature][inside], exact[inside], rtol=0.2)
        assert (np.diff(found_FQ[feature]) >= 0).all()
        assert found_FQ[feature].max() <= values.max()


@pytest.mark.parametrize("number", [0, 31, NUM_BINS - 1])
def test_quantiles_of_one_bin_lie_evenly_in_it_up_to_the_maximum(number: int) -> None:
    lower, upper = histogram_edges(STD)[number : number + 2]
    largest = lower + 0.95 * (upper - lower)
    statistics = FeatureStatistics(1, STD)
    statistics.update(active(torch.full((40, 1), largest)), 40)
    (found_Q,) = statistics.quantiles()
    assert found_Q == pytest.approx(np.minimum(lower + np.array(QUANTILES) * (upper - lower), largest), rel=1e-6)


def test_a_quantile_between_two_bins_is_the_end_of_the_lower_one() -> None:
    edges = histogram_edges(STD)
    statistics = FeatureStatistics(1, STD)
    statistics.update(active(torch.tensor([[edges[10]], [edges[30]]]).repeat(10, 1)), 20)
    assert statistics.quantiles()[0, QUANTILES.index(0.5)] == pytest.approx(edges[11])


def test_within_a_bin_the_share_below_rises_evenly() -> None:
    edges = np.float32(histogram_edges(STD))
    statistics = FeatureStatistics(3, STD)
    statistics.update(active(torch.tensor([[edges[10], edges[63], 0], [edges[20], 0, 0]])), 2)
    inside, below, above = edges[10] * 0.75 + edges[11] * 0.25, edges[0] / 2, edges[-1] * 2
    value_FC = np.tile(np.float32([below, inside, edges[15], above]), (3, 1))
    assert statistics.shares_below(value_FC, slice(0, 3)) == pytest.approx(
        np.array([[0, 0.125, 0.5, 1], [0, 0, 0, 1], [0, 0, 0, 0]]), abs=1e-6
    )


def test_the_state_holds_whole_numbers_by_class_too() -> None:
    statistics = FeatureStatistics(2, STD, {"task": 2, "place": 3})
    statistics.update(active(torch.ones(4, 2)), 4, {"task": np.array([0, 1, 1, 1]), "place": np.array([2, 2, 2, 2])})
    state = statistics.state_dict()
    assert state.keys() >= {"tokens_by.task", "tokens_by.place", "fired_by.task", "fired_by.place"}
    assert {name for name, value in state.items() if value.is_floating_point()} == {"max_F"}
    resumed = FeatureStatistics(2, STD, {"task": 2, "place": 3})
    resumed.load_state_dict(load(save(state)))
    resumed.merge(state)
    assert resumed.tokens_by["task"].tolist() == [2, 6]
    assert resumed.density_by("task").tolist() == statistics.density_by("task").tolist() == [[1, 1], [1, 1]]
    assert statistics.quantiles().dtype == np.float32


def test_shares_below_a_value_are_those_of_the_values_at_its_bins_edge(acts_NF: Tensor) -> None:
    statistics = count(acts_NF, 500)
    edges = np.float32(histogram_edges(STD))[[10, 30, 50]]
    shares_FC = statistics.shares_below(np.tile(edges, (2, 1)), slice(2, 4))
    for row, feature in enumerate((2, 3)):
        values = acts_NF[:, feature][acts_NF[:, feature] > 0].numpy()
        assert shares_FC[row].tolist() == pytest.approx([(values < edge).mean() for edge in edges])


def test_density_by_class_is_that_of_the_classes_tokens(acts_NF: Tensor) -> None:
    statistics = FeatureStatistics(FEATURES, STD, {"task": 4})
    class_N = np.arange(3_000) % 3
    for start in range(0, 3_000, 700):
        rows = slice(start, start + 700)
        statistics.update(active(acts_NF[rows]), len(acts_NF[rows]), {"task": class_N[rows]})
    density_FK = statistics.density_by("task")
    for number in range(3):
        expected = (acts_NF[class_N == number] > 0).double().mean(dim=0)
        assert density_FK[:, number] == pytest.approx(expected.numpy())
    assert not density_FK[:, 3].any()
