"""Selection, fit and figures of probes against hand-computed values, scikit-learn and a plain bootstrap."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from mistudio.evaluate.pooling import Passage
from mistudio.evaluate.probes import (
    Problem,
    find_problems,
    fit_probe,
    interval,
    resampled_figures,
    select_latents,
    shuffled,
)


def passages(**counts: int) -> list[Passage]:
    """So many documents of each ``task_label``, in turn."""
    return [Passage(0, 1, *name.split("_")) for name, count in counts.items() for _ in range(count)]


def test_two_labels_make_one_problem_and_more_make_one_each() -> None:
    train = passages(mood_good=5, mood_bad=3, topic_a=4, topic_b=4, topic_c=4)
    heldout = passages(topic_c=2, topic_b=2, topic_a=2, mood_bad=2, mood_good=2)
    problems = find_problems(train, heldout, min_documents=2, max_classes=9)
    assert [(p.task, p.label) for p in problems] == [("mood", "good"), ("topic", "a"), ("topic", "b"), ("topic", "c")]
    mood, _, topic_b, _ = problems
    assert mood.train_P.tolist() == list(range(8))
    assert mood.train_is_P.tolist() == [True] * 5 + [False] * 3
    assert mood.heldout_P.tolist() == [6, 7, 8, 9]
    assert mood.heldout_is_P.tolist() == [False, False, True, True]
    assert topic_b.heldout_P.tolist() == list(range(6))
    assert topic_b.heldout_is_P.tolist() == [False, False, True, True, False, False]


def test_rare_labels_are_left_out_on_either_side_and_the_most_frequent_kept_of_many() -> None:
    train = passages(t_a=9, t_b=8, t_c=7, t_d=2, t_e=9)
    heldout = passages(t_a=3, t_b=3, t_c=3, t_d=3, t_e=2)
    assert [p.label for p in find_problems(train, heldout, 3, 9)] == ["a", "b", "c"]
    (only,) = find_problems(train, heldout, 3, 2)
    assert (only.label, len(only.train_P), len(only.heldout_P)) == ("b", 17, 6)
    assert find_problems(train, heldout, 9, 9) == []


def test_the_latents_whose_means_differ_most_are_selected() -> None:
    latents = sparse.csr_array(np.array([[0, 5, 1, 0], [0, 5, 1, 2], [4, 5, 0, 0], [4, 5, 0, 0.5]], dtype=np.float32))
    is_P = np.array([False, False, True, True])
    assert select_latents(latents, is_P, 3).tolist() == [0, 2, 3]  # differences 4, 0, 1, 0.75
    assert select_latents(latents, is_P, 9).tolist() == [0, 2, 3, 1]


def test_a_probe_separates_what_can_be_separated_whatever_the_scale() -> None:
    generator = np.random.default_rng(0)
    is_P = generator.random(400) < 0.2
    columns = np.stack([1e-4 * (is_P + 0.2 * generator.standard_normal(400)), np.ones(400)], axis=1).astype(np.float32)
    fit = fit_probe(columns[:200], is_P[:200], columns[200:])
    assert ((fit.scores_P > 0) == is_P[200:]).mean() > 0.95
    assert fit.weights_K[0] > 1
    assert fit.weights_K[1] == pytest.approx(0, abs=1e-9)


def test_figures_are_those_of_scikit_learn_with_ties_and_unequal_classes() -> None:
    generator = np.random.default_rng(1)
    is_P = generator.random(300) < 0.25
    scores_P = np.round(is_P + generator.standard_normal(300), 1) - 0.5
    assert len(np.unique(scores_P)) < 100
    accuracy, balanced, auroc = resampled_figures(scores_P, is_P, 20, seed=0)[:, 0]
    assert accuracy == pytest.approx(accuracy_score(is_P, scores_P > 0))
    assert balanced == pytest.approx(balanced_accuracy_score(is_P, scores_P > 0))
    assert auroc == pytest.approx(roc_auc_score(is_P, scores_P))


def test_resampled_figures_are_those_of_resampled_documents() -> None:
    generator = np.random.default_rng(2)
    is_P = generator.random(60) < 0.4
    scores_P = np.round(is_P + generator.standard_normal(60), 1) - 0.5
    figures = resampled_figures(scores_P, is_P, 250, seed=3)
    assert figures.shape == (3, 251)
    draws = np.random.default_rng(3)
    for resample in range(1, 101):
        chosen = np.repeat(np.arange(60), draws.multinomial(60, np.full(60, 1 / 60)))
        assert figures[0, resample] == pytest.approx(accuracy_score(is_P[chosen], scores_P[chosen] > 0))
        assert figures[1, resample] == pytest.approx(balanced_accuracy_score(is_P[chosen], scores_P[chosen] > 0))
        assert figures[2, resample] == pytest.approx(roc_auc_score(is_P[chosen], scores_P[chosen]))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # The AUROC of two unit normals one apart is Phi(1 / sqrt 2) = 0.7602.
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        is_P = np.arange(100) < 50
        low, high = interval(resampled_figures(is_P + generator.standard_normal(100), is_P, 200, seed=0)[2, 1:])
        covered += low <= 0.7602 <= high
    assert 0.88 * 200 <= covered <= 200


def test_a_resample_without_one_of_the_classes_is_left_out_of_the_interval() -> None:
    is_P = np.array([True, False, False])
    figures = resampled_figures(np.array([1.0, -1.0, -2.0]), is_P, 100, seed=0)
    assert np.isnan(figures[2]).any()
    assert interval(figures[2, 1:]) == (1.0, 1.0)


def test_shuffling_permutes_training_labels_and_nothing_else() -> None:
    places = np.arange(50)
    problem = Problem("t", "a", places, places < 10, places, places < 20)
    first, second = shuffled(problem, 2, seed=0)
    for control in (first, second):
        assert control.train_is_P.sum() == 10
        assert control.train_is_P.tolist() != problem.train_is_P.tolist()
        assert control.heldout_is_P is problem.heldout_is_P
    assert first.train_is_P.tolist() != second.train_is_P.tolist()
    assert next(shuffled(problem, 1, seed=0)).train_is_P.tolist() == first.train_is_P.tolist()
