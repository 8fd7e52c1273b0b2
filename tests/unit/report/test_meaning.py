"""Explanations, scores and surroundings of features on the page."""

import json

import pytest

from mistudio.errors import InputError
from mistudio.explain.records import Explanation
from mistudio.report import ReportConfig, report
from mistudio.score.records import Score
from tests.support.fake_meaning import (
    explain_all,
    publish_meaningful_run,
    publish_scores,
    surround,
)
from tests.support.fake_run import ABOUT, make_tables, publish_run, publish_tables
from tests.unit.report.page import Page

EVIL = "</script><img src=x onerror=evil()>"


def read(artifact) -> Page:
    return Page(artifact.file("dashboard.html").read_text(encoding="utf-8"))


def render(store, features, evaluation, scores=None, **config) -> Page:
    return read(report(store, features, evaluation, ReportConfig(**config), scores).artifact)


def test_the_list_has_label_explanation_and_score_and_a_persons_label_wins(store):
    index = render(store, *publish_meaningful_run(store, 10, dead=[4], person={2: "what a person saw"})).index
    assert index["label"][2] == "what a person saw"
    assert index["label"][3].startswith("`")
    assert "number-3-way" in index["text"][3]
    assert index["score"][:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert (index["label"][4], index["text"][4], index["score"][4]) == ("", "", None)


def test_details_have_all_explanations_and_scores_of_their_feature_with_intervals_and_failures(store):
    details = render(store, *publish_meaningful_run(store, 10, dead=[4], person={2: "what a person saw"})).details
    assert [each["explainer"] for each in details[2]["explanations"]] == ["person", "program", "token-set"]
    assert "number-2-way" in details[2]["explanations"][1]["text"]
    assert details[2]["explanations"][1]["confidence"] == 0.9
    by_name = {(each["explainer"], each["scorer"]): each for each in details[2]["scores"]}
    assert set(by_name) == {
        ("program", "program"),
        ("token-set", "program"),
        ("program", "program-shuffled"),
        ("program", "detection"),
    }
    assert (by_name["program", "detection"]["failures"], by_name["program", "detection"]["examples"]) == (3, 40)
    figures = by_name["program", "program"]["figures"]
    assert figures["f1"] == pytest.approx([0.3, 0.25, 0.34])
    assert figures["f1_any"] == pytest.approx([0.2, 0.15, 0.24])
    assert by_name["program", "program-shuffled"]["figures"] == {"f1": [0.004, None, None]}
    assert details[4]["explanations"][0]["status"] == "dead"
    assert details[4]["scores"][0]["failures"] == details[4]["scores"][0]["examples"] == 1000


def test_the_page_and_its_summary_count_explained_and_interpretable_features_as_the_scores_do(store):
    features, evaluation, scores = publish_meaningful_run(store, 10, dead=[9])
    headlines = json.loads(scores.file("scores.json").read_text())["headlines"]
    produced = report(store, features, evaluation, scores=scores).artifact
    summary = produced.manifest.summary
    assert (summary["interpretable"], summary["explained"]) == (2, 9)
    assert (headlines["interpretable"], headlines["explained"]) == (2, 9)
    page = read(produced)
    assert "Interpretable" in page.text
    assert "held-out F1 ≥ 0.8" in page.text
    assert sum(page.index["distribution"]["counts"]) == 9
    assert page.index["distribution"]["undefined"] == 1
    text = produced.file("report.md").read_text()
    assert "| features explained | 9 of 10 |" in text
    assert "| mean F1, explanations shuffled over features | 0.004 |" in text
    assert "| Scores | " in text


def test_without_scores_the_page_says_nothing_of_explanations(store):
    features, evaluation, _ = publish_meaningful_run(store, 4)
    produced = report(store, features, evaluation).artifact
    page = read(produced)
    assert not {"label", "text", "score", "distribution"} & set(page.index)
    assert not {"explanations", "scores"} & set(page.details[0])
    assert "Interpretable" not in page.text
    assert not {"interpretable", "explained"} & set(produced.manifest.summary)
    assert "Explanations" not in produced.file("report.md").read_text()


def test_neighbours_map_effects_and_profiles_are_those_of_the_feature(store):
    page = render(store, *publish_meaningful_run(store, 12, dead=[4]))
    assert page.details[3]["neighbours"] == {"decoder": [[4, 0.9], [2, 0.8]], "correlation": [[5, 0.9], [1, 0.8]]}
    assert (page.details[3]["ablation"], page.details[3]["ablation_control"]) == (0.5, -0.02)
    assert page.details[3]["lift"] == [["def", 40.0], [" self", 3.5]]
    density = page.index["density"][3]
    assert page.details[3]["task_density"] == pytest.approx([2 * density, density, density / 2], rel=1e-2)
    assert "ablation" not in page.details[4]
    assert page.index["tasks"] == ABOUT.tasks
    assert (page.index["x"][0], page.index["x"][6], page.index["y"][3]) == (2000, 0, 2000)
    assert page.index["cluster"][:4] == [0, 1, None, 0]


def test_contexts_come_by_kind_with_limits_of_their_own(store):
    run = publish_meaningful_run(store, 5)
    details = render(store, *run, contexts_per_feature=4, sampled_contexts=2, silent_contexts=1).details
    for feature, detail in enumerate(details):
        counts = {kind: len(detail[kind]) for kind in ("contexts", "sampled", "random", "hard_negative")}
        assert counts == {"contexts": 4, "sampled": 2, "random": 1, "hard_negative": 1}
        assert detail["hard_negative"][0]["neighbour"] == feature + 1
        assert detail["random"][0]["active"] == []
        first, second = detail["contexts"][:2]
        assert dict(first["integrated"]) == {first["peak"]: 2.0, len(first["tokens"]) - 1: -0.4}
        assert "integrated" not in second


def test_features_without_neighbours_or_a_place_are_shown_without(store):
    page = render(store, *publish_run(store, num_features=3))
    assert not {"x", "y", "cluster"} & set(page.index)
    assert all(detail["neighbours"] == {} for detail in page.details)
    assert "Map" not in page.text


def test_where_programs_were_not_scored_the_judges_figure_stands_for_a_feature(store):
    feature_rows, context_rows = make_tables(2, 2, set(), 8, True)
    features, evaluation = publish_tables(store, feature_rows, context_rows)
    explained = [
        Explanation(feature=feature, explainer="max-activating", text="A verb.", label="verb", model="judge")
        for feature in range(2)
    ]
    scores = [
        Score(feature, "max-activating", scorer, metric, value + feature / 10, 0.6, 0.9, 20, 3)
        for feature in range(2)
        for scorer, metric, value in (
            ("simulation", "correlation", 0.2),
            ("detection", "balanced_accuracy", 0.75),
            ("detection", "auroc", 0.5),
        )
    ]
    published = publish_scores(store, features, feature_rows, explained, scores)
    produced = report(store, features, evaluation, scores=published).artifact
    page = read(produced)
    assert page.index["score"] == [0.75, 0.85]
    assert page.index["distribution"]["label"] == "balanced accuracy, detection"
    assert produced.manifest.summary["interpretable"] == 1
    assert page.details[1]["scores"][0]["failures"] == 3


def test_scores_of_other_features_are_refused(store):
    feature_rows, context_rows = make_tables(3, 2, set(), 8, True)
    features, evaluation = publish_tables(store, feature_rows, context_rows)
    explained = explain_all(feature_rows, context_rows, {})
    scores = publish_scores(store, features, feature_rows, explained, [])
    surround(feature_rows, context_rows)
    again, _ = publish_tables(store, feature_rows, context_rows, config={"contexts": 11})
    with pytest.raises(InputError, match=f"{scores.uri} is of {features.uri}, not of {again.uri}: give what was made"):
        report(store, again, evaluation, scores=scores)


def test_something_else_than_scores_is_refused(store):
    features, evaluation = publish_run(store, num_features=3)
    with pytest.raises(InputError, match="one of kind scores"):
        report(store, features, evaluation, scores=evaluation)


def test_an_explanation_cannot_become_markup(store):
    page = render(store, *publish_meaningful_run(store, 3, person={1: EVIL}))
    assert not any(tag == "img" for tag, _ in page.tags)
    assert page.index["label"][1] == page.index["text"][1] == EVIL
    assert page.details[1]["explanations"][0]["text"] == EVIL
