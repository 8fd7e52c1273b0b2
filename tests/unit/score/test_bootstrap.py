import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from mistudio.score.bootstrap import (
    UNDEFINED,
    auroc,
    balanced_accuracy,
    correlation,
    draw_counts,
    f1,
    mean,
)

DRAWS = 200


def data(seed: int = 0, num: int = 300, num_documents: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truths that they tell something about, and documents with gaps in their numbers."""
    draw = np.random.default_rng(seed)
    truth = draw.random(num) < 0.3
    scores = np.round(draw.normal(size=num) + truth, 1)
    return scores, truth, draw.integers(num_documents, size=num) * 7


def by_hand(
    statistic: object, columns: tuple[np.ndarray, ...], documents: np.ndarray, seed: int = 0
) -> tuple[float, ...]:
    """The figure, and its interval over the same draws with every document written out as often as it was drawn."""
    names = np.unique(documents)
    values = []
    for counts in draw_counts(len(names), DRAWS, seed):
        rows = np.concatenate(
            [
                np.flatnonzero(documents == name)
                for name, count in zip(names, counts, strict=True)
                for _ in range(int(count))
            ]
        )
        values.append(statistic(*(column[rows] for column in columns)))
    return (statistic(*columns), *np.percentile(values, [2.5, 97.5]))


def test_the_area_under_the_curve_agrees_with_documents_written_out() -> None:
    scores, truth, documents = data()
    expected = by_hand(lambda s, t: roc_auc_score(t, s), (scores, truth), documents)
    assert auroc(scores, truth, documents, DRAWS) == pytest.approx(expected)


def test_balanced_accuracy_and_f1_agree_with_documents_written_out() -> None:
    scores, truth, documents = data()
    predicted = scores > 0.5
    expected = by_hand(lambda s, t: balanced_accuracy_score(t, s), (predicted, truth), documents)
    assert balanced_accuracy(predicted == truth, truth, documents, DRAWS) == pytest.approx(expected)
    expected = by_hand(lambda s, t: f1_score(t, s), (predicted, truth), documents)
    assert f1(predicted, truth, documents, DRAWS) == pytest.approx(expected)


def test_correlation_and_mean_agree_with_documents_written_out() -> None:
    scores, truth, documents = data()
    values = truth + 1e6  # far from zero, where sums of squares would lose digits
    expected = by_hand(lambda a, b: np.corrcoef(a, b)[0, 1], (scores, values), documents)
    assert correlation(scores, values, documents, DRAWS) == pytest.approx(expected)
    assert mean(scores, documents, DRAWS) == pytest.approx(by_hand(np.mean, (scores,), documents))


def test_another_seed_draws_other_documents_and_the_same_seed_the_same() -> None:
    scores, truth, documents = data()
    first, again, other = (auroc(scores, truth, documents, DRAWS, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.value == other.value
    assert first != other


def test_intervals_over_documents_hold_the_truth_about_as_often_as_they_say() -> None:
    held, narrow = 0, 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        # The ten tokens of a document are all but copies: there are 40 observations, not 400.
        values = np.repeat(draw.normal(size=40), 10) + 0.01 * draw.normal(size=400)
        documents = np.repeat(np.arange(40), 10)
        estimate = mean(values, documents, 400, seed)
        held += estimate.low <= 0 <= estimate.high
        tokens = mean(values, np.arange(400), 400, seed)
        narrow += tokens.low <= 0 <= tokens.high
    assert 0.88 <= held / 200 <= 0.98
    assert narrow / 200 < 0.6  # tokens as if they were independent would promise too much


def test_figures_that_are_not_defined_are_not_numbers() -> None:
    none, documents = np.zeros(4, dtype=bool), np.arange(4)
    assert math.isnan(auroc(np.arange(4.0), none, documents, DRAWS).value)
    assert math.isnan(balanced_accuracy(~none, none, documents, DRAWS).value)
    assert math.isnan(f1(none, none, documents, DRAWS).value)
    assert math.isnan(correlation(np.arange(4.0), np.zeros(4), documents, DRAWS).value)
    empty = np.zeros(0, dtype=bool)
    for figure in (
        auroc(empty.astype(float), empty, empty.astype(int), DRAWS),
        correlation(empty.astype(float), empty.astype(float), empty.astype(int), DRAWS),
        mean(empty.astype(float), empty.astype(int), DRAWS),
    ):
        assert np.isnan(figure).all()
    assert np.isnan(UNDEFINED).all()


def test_a_constant_prediction_correlates_with_nothing() -> None:
    assert correlation(np.full(5, 3.0), np.arange(5.0), np.arange(5), DRAWS).value == 0


def test_a_feature_that_was_never_predicted_has_an_f1_of_zero() -> None:
    truth = np.array([True, False, True])
    assert f1(np.zeros(3, dtype=bool), truth, np.arange(3), DRAWS).value == 0


def test_one_document_gives_no_interval() -> None:
    scores, truth, documents = data(num_documents=1)
    estimate = auroc(scores, truth, documents, DRAWS)
    assert 0.5 < estimate.value < 1
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_what_cannot_be_judged_ranks_last_without_spoiling_the_rest() -> None:
    scores = np.array([-np.inf, 2.0, 1.0, np.inf, 0.0])
    truth = np.array([True, True, True, False, False])
    assert auroc(scores, truth, np.arange(5), DRAWS).value == pytest.approx(2 / 6)
