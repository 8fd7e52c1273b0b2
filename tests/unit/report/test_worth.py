"""The order that the dashboard opens in: score against its control, coherence, and what puts a feature down."""

import numpy as np
import pytest

from mistudio.artifacts import Line
from mistudio.explain.records import Explanation
from mistudio.features import MAP, FeatureSet
from mistudio.report import report
from mistudio.report.config import ReportConfig
from mistudio.report.interpretation import Interpretation
from mistudio.report.worth import Standing, weigh
from mistudio.score.records import Score
from tests.support.fake_meaning import publish_scores
from tests.support.fake_run import make_tables, publish_tables
from tests.unit.report.page import Page

NAN = np.nan


def found(store, *, coherence, density=None, group=None, dead=()):
    """The features of a run with these figures."""
    num_features = len(coherence)
    rows, contexts = make_tables(num_features, 2, set(dead), 8, False)
    for row, own in zip(rows, coherence, strict=True):
        row["coherence"] = own
        row["density"] = (density or {}).get(row["feature"], 0.001 if row["count"] else 0.0)
    groups = [(group or {}).get(feature) for feature in range(num_features)]
    numbers = np.arange(num_features)
    places = MAP.build({"feature": numbers, "x": numbers, "y": numbers, "group": groups})
    return rows, *publish_tables(store, rows, contexts, places=places)


def standing(score, control) -> Standing:
    """Of explanations that were scored on as many firings as one could wish."""
    score_F = np.array(score, dtype=float)
    return Standing(score_F, np.array(control, dtype=float), np.full(len(score_F), 1e12), np.zeros(len(score_F)))


def test_a_gain_counts_as_far_as_it_is_known_and_coherence_of_few_contexts_less(store):
    _, features, _ = found(store, coherence=[0.0, 0.0, 0.0, 1.0])
    firing = np.array([1.0, 20.0, NAN, 0.0])
    few = standing([1.0, 1.0, 1.0, NAN], [0.0] * 4)._replace(firing_F=firing)
    assert weigh(FeatureSet(features), few, 0.1).worth_F == pytest.approx([2 / 63, 1 / 3, 0.0, 1 / 3])
    rows, contexts = make_tables(2, 2, set(), 8, False)
    for row, count in zip(rows, (2, 5), strict=True):
        row |= {"coherence": 0.9, "count": count, "density": 0.001}
    features, _ = publish_tables(store, rows, contexts)
    assert weigh(FeatureSet(features), None, 0.1).worth_F == pytest.approx([0.3 * 2 / 5, 0.3])


def test_a_program_that_gains_by_context_is_worth_more(store):
    _, features, _ = found(store, coherence=[0.3] * 3)
    told = standing([0.6] * 3, [0.0] * 3)._replace(context_F=np.array([0.4, -0.4, NAN]))
    assert weigh(FeatureSet(features), told, 0.1).worth_F == pytest.approx([0.5 + 0.5 * 0.4 / 2, 0.5, 0.5])


def test_of_equals_the_denser_comes_first(store):
    _, features, _ = found(store, coherence=[0.3, 0.3, 0.30001, 0.3], density={1: 0.002, 3: 0.01})
    worth = weigh(FeatureSet(features), None, 0.1)
    assert worth.first(1).tolist() == [3]
    assert worth.first(2).tolist() == [1, 3]


def test_worth_is_two_thirds_gain_over_the_control_and_a_third_coherence(store):
    _, features, _ = found(store, coherence=[0.6, 0.6, None, 0.9])
    worth_F = weigh(FeatureSet(features), standing([0.9, 0.9, 0.9, NAN], [0.0, 0.8, 0.0, 0.0]), 0.1).worth_F
    assert worth_F == pytest.approx([(1.8 + 0.6) / 3, (1.0 + 0.6) / 3, 1.8 / 3, 0.9 / 3])


def test_an_explanation_that_is_worse_than_its_control_gains_nothing(store):
    _, features, _ = found(store, coherence=[0.3])
    assert weigh(FeatureSet(features), standing([0.2], [0.6]), 0.1).worth_F == pytest.approx([0.1])


def test_without_scores_features_are_ordered_by_coherence(store):
    _, features, _ = found(store, coherence=[0.2, None, 0.9])
    assert weigh(FeatureSet(features), None, 0.1).worth_F == pytest.approx([0.2 / 3, 0.0, 0.3])


def test_a_dense_feature_is_put_down_to_a_quarter_and_a_dead_one_to_nothing(store):
    _, features, _ = found(store, coherence=[0.6, 0.6, 0.6], density={0: 0.2, 1: 0.01}, dead=[2])
    worth_F = weigh(FeatureSet(features), standing([0.9] * 3, [0.0] * 3), 0.1).worth_F
    assert worth_F == pytest.approx([0.2, 0.8, 0.0])


def test_between_dense_and_a_tenth_of_it_worth_goes_with_the_logarithm_of_the_density(store):
    density = {0: 0.1, 1: 0.1 / 10**0.5, 2: 0.001}
    _, features, _ = found(store, coherence=[0.6, 0.6, 0.6], density=density)
    assert weigh(FeatureSet(features), None, 0.1).worth_F == pytest.approx([0.2 / 4, 0.2 * 0.625, 0.2])


def test_of_near_duplicates_the_best_stays_and_the_others_name_it(store):
    _, features, _ = found(store, coherence=[0.3, 0.9, 0.6, 0.6], group={0: 0, 1: 0, 2: 0})
    worth = weigh(FeatureSet(features), None, 0.1)
    assert worth.like_F.tolist() == [1, -1, 1, -1]
    assert worth.worth_F == pytest.approx([0.1 / 4, 0.3, 0.2 / 4, 0.2])


def test_a_page_that_cannot_hold_all_features_holds_those_of_most_worth(store):
    _, features, evaluation = found(store, coherence=[0.1, 0.9, 0.2, 0.8, 0.3], group={1: 1, 3: 1})
    page = Page(
        report(store, features, evaluation, ReportConfig(max_features=3)).artifact.file("dashboard.html").read_text()
    )
    assert page.index["feature"] == [1, 2, 4]
    assert page.index["worth"] == pytest.approx([0.3, 0.067, 0.1])
    assert page.index["x"] == sorted(page.index["x"])
    assert len(page.index["cluster"]) == 3
    assert len(page.details) == 3
    assert "the 3 of most worth of 5 features" in page.text


def interpreted(store, explanations, scores) -> Interpretation:
    rows, features, _ = found(store, coherence=[0.5, 0.5])
    published = publish_scores(store, features, rows, explanations, scores)
    return Interpretation(published, Line(store, published).required("explanations"), 2)


def words(feature: int, explainer: str) -> Explanation:
    text = f"{explainer} {feature}"
    return Explanation(feature=feature, explainer=explainer, text=text, label=text, confidence=0.9)


def test_what_gave_the_label_is_held_by_the_lower_end_of_its_interval_against_its_own_control(store):
    scores = [
        Score(0, "program", "program", "f1", 0.9, 0.7, 0.95, 100),
        Score(0, "program", "program-shuffled", "f1", 0.1, NAN, NAN, 100),
        Score(0, "program", "program", "fires", 12, 3, 15, 100),
        Score(0, "token-set", "program", "f1", 0.5, NAN, NAN, 100),
        Score(1, "program", "program", "f1", 0.5, NAN, NAN, 100),
    ]
    found_standing = interpreted(store, [words(0, "program"), words(1, "program")], scores).standing()
    assert found_standing.score_F == pytest.approx([0.7, 0.5])
    assert found_standing.control_F == pytest.approx([0.1, 0.0])
    assert found_standing.firing_F[0] == 12
    assert found_standing.context_F == pytest.approx([0.4, NAN], nan_ok=True)


def test_a_label_of_a_language_model_is_held_by_its_own_scores_and_chance(store):
    explanations = [words(0, "contrastive"), words(0, "program"), words(1, "program")]
    scores = [
        Score(0, "program", "program", "f1", 0.2, 0.1, 0.3, 100),
        Score(1, "program", "program", "f1", 0.6, 0.5, 0.7, 100),
        Score(0, "contrastive", "detection", "balanced_accuracy", 0.9, 0.8, 0.95, 40),
    ]
    found_standing = interpreted(store, explanations, scores).standing()
    assert found_standing.score_F == pytest.approx([0.8, 0.5])
    assert found_standing.control_F == pytest.approx([0.5, 0.0])
    assert found_standing.firing_F[0] == 20  # half of the judge's examples


def test_a_label_that_nobody_scored_stands_by_the_explanation_that_was(store):
    explanations = [words(0, "person"), words(0, "program"), words(1, "program")]
    scores = [Score(0, "program", "program", "f1", 0.8, 0.7, 0.9, 100)]
    found_standing = interpreted(store, explanations, scores).standing()
    assert found_standing.score_F[0] == pytest.approx(0.7)
    assert np.isnan(found_standing.score_F[1])
