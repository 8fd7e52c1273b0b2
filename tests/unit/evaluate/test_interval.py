"""The interval of CE recovered, against resampled documents and drawn populations, and when it is narrow enough."""

import numpy as np
import pytest

from mistudio.evaluate.interval import (
    LEAST_DOCUMENTS,
    LEAST_SEQUENCES,
    Drawn,
    Run,
    are_zeros_enough,
    extra_loss,
    is_control_enough,
    mean_kl,
    more_needed,
    recovered_half_width,
)

Draws = tuple[Drawn, Run, Run]


def draws(seed: int, documents: int, zeros: int | None = None, lost: float = 0.3) -> Draws:
    """Three sequences a document, which share half of what they lose; R is 1 - lost / 5."""
    lot = np.random.default_rng(seed)
    document_S = np.repeat(np.arange(documents), 3)
    lot.shuffle(document_S)
    predictions_S = lot.integers(20, 128, len(document_S)).astype(float)

    def per_token(mean: float, spread: float) -> np.ndarray:
        shared_S, alone_S = lot.standard_normal(documents)[document_S], lot.standard_normal(3 * documents)
        return mean * (1 + spread * (shared_S + alone_S))

    clean_S = predictions_S * per_token(3.0, 0.1)
    own_S, zero_S = (clean_S + predictions_S * per_token(*each) for each in ((lost, 0.4), (5.0, 0.1)))
    if zeros is not None:
        zero_S[zeros:] = np.nan
    return Drawn(predictions_S, document_S, clean_S), Run(zero_S, zero_S), Run(own_S, own_S)


def recovered(drawn: Drawn, zeros: Run, own: Run) -> float:
    return 1 - extra_loss(drawn, own).value / extra_loss(drawn, zeros).value


@pytest.mark.parametrize("zeros", [None, 60])
def test_the_interval_holds_the_truth_nineteen_times_in_twenty(zeros: int | None) -> None:
    held = 0
    for seed in range(400):
        half_width = recovered_half_width(*draws(seed, 60, zeros))
        assert half_width is not None
        held += abs(recovered(*draws(seed, 60, zeros)) - 0.94) <= half_width
    assert 0.91 <= held / 400 <= 0.975


@pytest.mark.parametrize("documents", [3, 5, 10, 40])
def test_it_holds_the_truth_of_few_documents_too(documents: int) -> None:
    held = 0
    for seed in range(400):
        drawn = draws(seed, documents)
        half_width = recovered_half_width(*drawn)
        assert half_width is not None
        held += abs(recovered(*drawn) - 0.94) <= half_width
    assert held / 400 >= 0.92


def test_an_interval_that_was_waited_for_holds_the_truth() -> None:
    held = early = 0
    for seed in range(300):
        drawn, zeros, own = draws(seed, 60)
        for done in range(LEAST_SEQUENCES, len(drawn.document_S) + 1, 16):
            part = Drawn(*(each[:done] for each in drawn))
            some = [Run(*(each[:done] for each in run)) for run in (zeros, own)]
            half_width = recovered_half_width(part, *some)
            assert half_width is not None
            if not more_needed(done, half_width, 0.01, len(np.unique(part.document_S))):
                early += done < 180
                break
        held += abs(recovered(part, *some) - 0.94) <= half_width
    assert early > 200
    assert held / 300 >= 0.9


def test_no_interval_of_fewer_than_ten_documents_is_enough() -> None:
    assert more_needed(1000, 1e-6, 0.005, LEAST_DOCUMENTS - 1) == 1000
    assert more_needed(1000, 1e-6, 0.005, LEAST_DOCUMENTS) == 0


def test_a_half_width_that_is_never_reached_asks_for_more_than_there_is() -> None:
    assert more_needed(1000, 0.01, 1e-300) >= 10**9
    assert more_needed(1000, 0.01, 5e-324) >= 10**9


def test_a_divergence_known_of_some_sequences_is_told_of_all_by_their_clean_loss() -> None:
    lot = np.random.default_rng(0)
    predictions_S = lot.integers(20, 128, 400).astype(float)
    clean_S = lot.normal(3.0, 0.5, 400)
    exact_S, order_S = 8.0 - 1.5 * clean_S, np.argsort(clean_S)
    drawn = Drawn(predictions_S, np.arange(400), clean_S * predictions_S)

    def mean(kl_S: np.ndarray, run_S: np.ndarray) -> float:
        here_S = np.where(run_S, kl_S * predictions_S, np.nan)
        return mean_kl(drawn, Run(here_S, here_S))

    whole = np.average(exact_S, weights=predictions_S)
    assert mean(exact_S, np.ones(400, dtype=bool)) == pytest.approx(whole)
    surest_S = np.isin(np.arange(400), order_S[:100])  # these alone diverge much more
    assert np.average(exact_S[surest_S], weights=predictions_S[surest_S]) > whole + 0.5
    assert mean(exact_S, surest_S) == pytest.approx(whole)
    noisy_S, ours, plain = exact_S + lot.normal(0, 0.3, 400), [], []
    truth = np.average(noisy_S, weights=predictions_S)
    for _ in range(200):
        some_S = lot.permutation(400) < LEAST_SEQUENCES
        ours.append(mean(noisy_S, some_S) - truth)
        plain.append(np.average(noisy_S[some_S], weights=predictions_S[some_S]) - truth)
    assert np.std(ours) < 0.6 * np.std(plain)
    assert abs(np.mean(ours)) < 0.03


def test_the_interval_is_that_of_resampled_documents() -> None:
    drawn, zeros, own = draws(0, 80)
    lot, found = np.random.default_rng(1), []
    for _ in range(1000):
        count_S = np.bincount(lot.integers(0, 80, 80), minlength=80)[drawn.document_S]
        lost, gap = ((count_S * (run.loss_S - drawn.clean_S)).sum() for run in (own, zeros))
        found.append(1 - lost / gap)
    assert recovered_half_width(drawn, zeros, own) == pytest.approx(1.96 * np.std(found), rel=0.1)


def test_sequences_of_one_document_count_as_one() -> None:
    drawn, zeros, own = draws(0, 80)
    together = recovered_half_width(drawn, zeros, own)
    apart = recovered_half_width(drawn._replace(document_S=np.arange(len(drawn.document_S))), zeros, own)
    assert together is not None
    assert apart is not None
    assert together > 1.1 * apart
    assert recovered_half_width(drawn._replace(document_S=np.zeros_like(drawn.document_S)), zeros, own) is None


def test_there_is_no_interval_where_zeroing_costs_nothing() -> None:
    drawn, _, own = draws(0, 80)
    harmless = Run(drawn.clean_S, drawn.clean_S)
    assert recovered_half_width(drawn, harmless, own) is None
    assert not are_zeros_enough(drawn, harmless, own, 0.5)
    assert not is_control_enough(drawn, harmless, own, 0.5)


def test_zeros_are_run_on_few_sequences_where_little_is_lost_and_on_more_where_much_is() -> None:
    assert are_zeros_enough(*draws(0, 100, zeros=40, lost=0.05), half_width=0.005)
    assert not are_zeros_enough(*draws(0, 100, zeros=40, lost=2.0), half_width=0.005)
    assert not are_zeros_enough(*draws(0, 100, zeros=LEAST_SEQUENCES - 1, lost=0.05), half_width=0.005)


def test_zeros_that_are_enough_widen_the_interval_by_no_more_than_a_few_percent() -> None:
    few, all_of_them = draws(0, 100, zeros=150, lost=0.2), draws(0, 100, lost=0.2)
    reached = recovered_half_width(*all_of_them)
    assert reached is not None
    assert are_zeros_enough(*few, half_width=reached)
    assert recovered_half_width(*few) == pytest.approx(reached, rel=0.06)


def test_a_control_is_enough_at_a_tenth_of_what_it_loses() -> None:
    drawn, zeros, own = draws(0, 100, lost=4.0)
    few = Run(np.where(np.arange(300) < 250, own.loss_S, np.nan), own.kl_S)
    assert is_control_enough(drawn, zeros, few, half_width=0.001)
    fewer = Run(np.where(np.arange(300) < LEAST_SEQUENCES, own.loss_S, np.nan), own.kl_S)
    assert not is_control_enough(drawn, zeros, fewer, half_width=0.001)


def test_what_is_needed_grows_with_the_square_of_the_half_width() -> None:
    assert more_needed(1000, 0.005, 0.005) == 0
    assert more_needed(1000, 0.01, 0.005) == pytest.approx(3400, abs=1)
    assert more_needed(1000, None, 0.005) == 1000
