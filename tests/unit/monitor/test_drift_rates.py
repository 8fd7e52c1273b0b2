"""The statistic: what is promised of it holds in simulation, lazily kept evidence is a bound, and figures are right."""

import math

import numpy as np
import pytest

from mistudio.monitor.drift.rates import PRIOR_NO, PRIOR_YES, RateTests, new_tests
from mistudio.monitor.drift.shares import Segments, interval, log_beyond, log_likelihood, log_mixture

PRIORS = (PRIOR_YES, PRIOR_NO)


def _run(tests: RateTests, share_H: np.ndarray, num_texts: int, seed: int) -> np.ndarray:
    """The largest log evidence of each in a stream."""
    draw, most_H = np.random.default_rng(seed), np.full(tests.num_tests, -np.inf)
    for _ in range(num_texts):
        which_A = np.flatnonzero(draw.random(tests.num_tests) < share_H)
        most_H[which_A] = np.maximum(most_H[which_A], tests.count(which_A))
    return np.maximum(most_H, tests.log_evidence())


@pytest.mark.parametrize("reference", [20, 200])
def test_alarms_without_a_change_are_no_more_than_promised_however_little_is_known_of_the_shares(
    reference: int,
) -> None:
    draw = np.random.default_rng(reference)
    share_H = np.exp(draw.uniform(math.log(1e-3), math.log(0.95), 3000))
    most_H = _run(new_tests(draw.binomial(reference, share_H), reference), share_H, 300, seed=1)
    for texts_per_alarm in (1000, 3000, 10_000):
        expected = len(share_H) * 300 / texts_per_alarm
        assert (most_H >= math.log(texts_per_alarm)).sum() <= expected
    assert most_H.max() > math.log(100)  # there is something to be promised


def test_a_change_is_seen_in_nearly_every_stream() -> None:
    before_H, now_H = np.full(500, 0.02), np.full(500, 0.2)
    tests = new_tests(np.random.default_rng(0).binomial(2000, before_H), 2000)
    _run(tests, before_H, 200, seed=2)
    assert (_run(tests, now_H, 200, seed=3) > math.log(1e6)).mean() > 0.98


def test_what_is_kept_lazily_is_at_most_what_each_text_would_have_made_of_it() -> None:
    draw = np.random.default_rng(4)
    share_H = np.array([0.002, 0.05, 0.4, 0.9])
    yes_H = draw.binomial(500, share_H)
    tests, evidence_HG = new_tests(yes_H, 500), np.zeros((4, 6))
    fired_TH = draw.random((400, 4)) < share_H
    ratio_G = np.array([1 / 6, 1 / 2, 2.0, 6.0, 20.0, 80.0])
    for number, fired_H in enumerate(fired_TH):
        tests.count(np.flatnonzero(fired_H))
        estimate_H = (yes_H + PRIOR_YES) / (500 + number + PRIOR_YES + PRIOR_NO)
        odds_HG = (np.maximum(estimate_H, 0.0005) / (1 - estimate_H))[:, None] * ratio_G
        bet_HG = odds_HG / (1 + odds_HG)
        won_HG = np.where(fired_H[:, None], bet_HG / estimate_H[:, None], (1 - bet_HG) / (1 - estimate_H)[:, None])
        evidence_HG = (evidence_HG + 1) * won_HG
        yes_H = yes_H + fired_H
    weight_G = np.array([0.05, 0.10, 0.15, 0.25, 0.30, 0.15])
    lazy_H = tests.log_evidence()
    exact_H = np.log(evidence_HG @ weight_G) + log_mixture(yes_H, np.full(4, 900), *PRIORS)
    exact_H -= log_likelihood(yes_H, np.full(4, 900), yes_H / 900)
    assert (lazy_H <= exact_H + 1e-9).all()
    assert (lazy_H >= exact_H - 0.5).all()


def test_the_bound_is_above_the_evidence_and_the_largest_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(7)
    share_H = draw.random(400) ** 2
    tests = new_tests(draw.binomial(300, share_H), 300)
    _run(tests, np.where(np.arange(400) % 50 == 0, 0.0, share_H), 120, seed=8)
    log_e_H = tests.log_evidence()
    assert (tests.most_log_evidence() >= log_e_H).all()
    expected = np.argsort(-log_e_H, kind="stable")[:20].tolist()
    for looked_at in (4096, 25):
        monkeypatch.setattr("mistudio.monitor.drift.rates._LOOKED_AT", looked_at)
        assert tests.largest(20).tolist() == expected
    assert tests.largest(1000).tolist()[:20] == expected
    assert new_tests(np.zeros(0, dtype=np.int64), 5).largest(3).tolist() == []


def test_texts_of_a_primary_count_towards_what_is_usual_and_not_as_evidence() -> None:
    tests = new_tests(np.zeros(1, dtype=np.int64), 0)
    for number in range(1000):
        tests.learn(np.arange(number % 2 == 0))
    assert (tests.num_texts, tests.num_learned, int(tests.yes_H[0])) == (0, 1000, 500)
    for _ in range(60):
        tests.count(np.arange(0))
    found = tests.segments(np.arange(1))
    assert tests.log_evidence()[0] > math.log(1e6)
    assert [int(each[0]) for each in found] == [1000, 500, 60, 0, 0]


def test_the_most_that_two_tied_shares_give_is_the_most_of_a_fine_grid() -> None:
    counts = [(1000, 30, 200, 40), (5000, 0, 300, 4), (200, 150, 100, 20), (50, 1, 40, 39)]
    found = Segments(*(np.array(each) for each in zip(*counts, strict=True)), np.zeros(4, dtype=np.int64))
    for ratio in (1.0, 1.5, 4.0):
        log_I = log_beyond(found, ratio, PRIORS)
        for place, (num_before, yes_before, num, yes) in enumerate(counts):
            share = np.concatenate([np.geomspace(1e-9, 0.01, 100_000), np.linspace(0.01, 1 - 1e-6, 200_000)])
            is_up = yes / num > yes_before / num_before
            odds = share / (1 - share) * (ratio if is_up else 1 / ratio)
            tied = log_likelihood(np.array(yes_before), np.array(num_before), share)
            tied = (tied + log_likelihood(np.array(yes), np.array(num), odds / (1 + odds))).max()
            alone = log_mixture(np.array(yes_before), np.array(num_before), *PRIORS)
            alone = alone + log_mixture(np.array(yes), np.array(num))
            assert log_I[place] == pytest.approx(alone - tied, abs=1e-3) or math.isinf(log_I[place])


def test_intervals_hold_at_every_moment_at_once() -> None:
    draw = np.random.default_rng(6)
    yes_S = np.zeros(2000, dtype=np.int64)
    misses_S = np.zeros(2000, dtype=np.bool_)
    for number in range(1, 201):
        yes_S += draw.random(2000) < 0.1
        low_S, high_S = interval(yes_S, np.full(2000, number), math.log(1 / 0.05))
        misses_S |= (low_S > 0.1) | (high_S < 0.1)
    assert 0.005 < misses_S.mean() <= 0.05
    assert float(np.median(low_S)) > 0.03
    assert float(np.median(high_S)) < 0.25
