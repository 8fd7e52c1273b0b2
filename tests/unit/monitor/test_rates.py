"""Thresholds for a rate, and bounds of what was counted: held to what simulation and closed forms say."""

import numpy as np
import pytest

from mistudio.monitor.calibrate.ranks import least_for, rank_for
from mistudio.monitor.calibrate.rates import interval, threshold_for, upper_bound, upper_bound_by_document


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("count", [99, 250, 1000])
def test_the_rate_of_further_values_is_at_most_what_was_asked_for_whatever_they_are_spread_like(
    rate: float, count: int
) -> None:
    draw = np.random.default_rng(3)
    exceeded, tried = 0, 0
    for _ in range(300):
        values = draw.standard_cauchy(count + 200).astype(np.float32)
        exceeded += int((values[count:] > threshold_for(values[:count], rate)).sum())
        tried += 200
    expected = rank_for(rate, count) / (count + 1)
    assert expected <= rate
    assert exceeded / tried == pytest.approx(expected, rel=0.25)


def test_too_few_values_for_a_rate_are_known_for_that() -> None:
    assert least_for(0.01) == 99
    assert rank_for(0.01, 99) == 1
    assert rank_for(0.01, 98) == 0
    with pytest.raises(ValueError, match="98 values are too few"):
        threshold_for(np.zeros(98, dtype=np.float32), 0.01)


def test_a_feature_that_is_mostly_silent_has_the_threshold_zero_or_more() -> None:
    values = np.zeros(200, dtype=np.float32)
    assert threshold_for(values, 0.01) == 0
    values[:50] = 3
    assert threshold_for(values, 0.1) == 3


def test_bounds_have_their_closed_forms_at_the_ends() -> None:
    assert upper_bound(0, 100, 0.95) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert upper_bound(100, 100, 0.95) == 1
    assert interval(0, 30, 0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 30)))
    assert interval(30, 30, 0.95) == (pytest.approx(0.025 ** (1 / 30)), 1.0)
    assert interval(0, 0, 0.95) == (0.0, 1.0)


def test_the_bound_of_a_rate_holds_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    holds = [upper_bound(int(draw.binomial(400, 0.01)), 400, 0.95) >= 0.01 for _ in range(2000)]
    assert np.mean(holds) >= 0.95


def test_a_rate_of_tokens_that_come_in_clusters_has_a_wider_bound_than_their_number_says() -> None:
    of_N = np.full(200, 100, dtype=np.float32)
    spread, clustered = np.zeros((2, 200), dtype=np.float32)
    spread[:] = 1
    clustered[:2] = 100
    wide, narrow = (upper_bound_by_document(each, of_N, 0.95, 500, 0) for each in (clustered, spread))
    assert wide > 1.5 * narrow
    assert 0 < upper_bound_by_document(np.zeros(200, dtype=np.float32), of_N, 0.95, 500, 0) < 0.001
