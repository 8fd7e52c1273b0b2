"""Comparing evaluations: configurations over seeds, the front, the best, the page, what is refused."""

import json
import re

import pyarrow.parquet as pq
import pytest

from mistudio.artifacts import open_artifact, remove_artifact
from mistudio.errors import InputError, NotFound
from mistudio.report.compare import compare
from mistudio.report.config import CompareConfig
from mistudio.report.pareto import draw
from mistudio.report.points import choose_best, configurations, front, read_points
from tests.support.fake_sweep import jumprelu, publish_evaluation, topk
from tests.unit.report.page import Page


def made(store, *figures):
    """Configurations of one seed with given (L0, CE recovered), called by their place."""
    evaluations = [
        publish_evaluation(store, topk(1 + number), l0=l0, ce_recovered=ce) for number, (l0, ce) in enumerate(figures)
    ]
    found = configurations(read_points(store, evaluations))
    return sorted(found, key=lambda each: each.sparsity)


def places(chosen):
    return [int(each.sparsity) - 1 for each in chosen]


def test_the_front_has_those_that_nothing_as_sparse_equals(store):
    candidates = made(store, (4, 0.9), (8, 0.95), (8, 0.94), (9, 0.93), (16, 0.95), (32, 0.99))
    assert places(front(candidates, "ce_recovered")) == [0, 1, 5]


def test_the_best_is_the_sparsest_that_keeps_the_share_asked_for(store):
    candidates = made(store, (4, 0.90), (8, 0.95), (16, 0.985), (32, 0.99))
    chosen = [choose_best(candidates, keep) for keep in (1.0, 0.99, 0.95, 0.5)]
    assert [int(best.sparsity) - 1 for best, _ in chosen] == [3, 2, 1, 0]
    assert {figure for _, figure in chosen} == {"ce_recovered"}


def test_of_those_equally_sparse_the_best_is_the_one_that_keeps_most(store):
    candidates = made(store, (15.5, 0.982), (16.0, 0.988), (16.5, 0.989), (32, 0.99))
    assert places([choose_best(candidates, 0.99)[0]]) == [1]  # 16.5 is more than 5% above 15.5


def test_a_greatest_figure_below_zero_still_has_a_best(store):
    candidates = made(store, (4, -0.3), (8, -0.1))
    assert places([choose_best(candidates, 0.99)[0]]) == [1]


def test_without_cross_entropy_explained_variance_decides(store):
    evaluations = [
        publish_evaluation(store, topk(k), l0=k, ce_recovered=None, explained_variance=share)
        for k, share in ((4, 0.7), (8, 0.8))
    ]
    artifact = compare(store, evaluations).artifact
    assert artifact.manifest.summary["best"] == "topk, width 1,024, k 8"
    assert "greatest Explained variance" in artifact.manifest.summary["rule"]
    page = artifact.file("comparison.html").read_text()
    assert re.findall(r"<figcaption>(.*?)<", page) == ["Explained variance"]


def test_seeds_of_one_configuration_are_a_mean_with_its_95_percent_interval(store):
    evaluations = [publish_evaluation(store, topk(8), seed, ce_recovered=0.97 + 0.01 * seed) for seed in range(3)]
    (configuration,) = configurations(read_points(store, evaluations))
    estimate = configuration.figures["ce_recovered"]
    assert estimate.mean == pytest.approx(0.98)
    # t of 2 degrees of freedom is 4.303; the standard error 0.01 / sqrt(3).
    assert estimate.high - estimate.mean == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert [point.seed for point in configuration.points] == [0, 1, 2]


def test_a_target_is_what_was_asked_for_and_else_the_penalty(store):
    evaluations = [publish_evaluation(store, jumprelu(target)) for target in (8.0, None)]
    names = [each.name for each in configurations(read_points(store, evaluations))]
    assert sorted(names) == ["jumprelu, width 1,024, L0 penalty 0.001", "jumprelu, width 1,024, target L0 8"]


def test_a_comparison_publishes_table_means_and_page_and_does_not_mind_the_order(store):
    evaluations = [
        publish_evaluation(store, settings, seed, l0=l0, ce_recovered=ce)
        for settings, l0, ce in ((topk(4), 4, 0.95), (topk(8), 8, 0.97), (jumprelu(8.0), 8.3, 0.98))
        for seed in (0, 1)
    ]
    produced = compare(store, evaluations, CompareConfig(title="a <b>", keep=0.9))
    assert compare(store, evaluations[::-1], CompareConfig(title="a <b>", keep=0.9)).found
    assert not compare(store, evaluations, CompareConfig(keep=0.9)).found
    artifact = produced.artifact
    assert artifact.paths() == ["comparison.html", "comparison.json", "points.parquet"]
    rows = pq.read_table(artifact.file("points.parquet")).to_pylist()
    assert len(rows) == 6
    assert {row["sae"] for row in rows} == {each.manifest.inputs["sae"].uri for each in evaluations}
    content = json.loads(artifact.file("comparison.json").read_text())
    assert content["fronts"]["ce_recovered"] == [
        "topk, width 1,024, k 4",
        "topk, width 1,024, k 8",
        "jumprelu, width 1,024, target L0 8",
    ]
    assert content["best"] == artifact.manifest.summary["best"] == "topk, width 1,024, k 4"
    assert content["configurations"][1]["seeds"] == [0, 1]
    assert open_artifact(store, artifact.manifest.summary["sae"]).manifest.seed == 0


def test_the_page_shows_every_configuration_twice_and_names_the_rule(store):
    evaluations = [publish_evaluation(store, topk(k), l0=k, ce_recovered=1 - 0.1 / k) for k in (4, 8)]
    artifact = compare(store, evaluations, CompareConfig(title="a <b>")).artifact
    text = artifact.file("comparison.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "a &lt;b&gt;" in text
    marks = [attributes for tag, attributes in page.tags if attributes.get("class") == "mark"]
    assert [mark["data-number"] for mark in marks] == ["0", "1", "0", "1"]
    assert marks[0]["data-label"] == "topk, width 1,024, k 4: L0 4.00, CE recovered 0.9750"
    assert artifact.manifest.summary["rule"] in text
    assert len([tag for tag, attributes in page.tags if attributes.get("class") == "random"]) == 4
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")
    assert "http:" not in text
    assert "https:" not in text


def test_the_axis_spreads_what_is_lost_and_holds_the_random_control(store):
    (low, middle, high) = draw(made(store, (4, 0.9), (8, 0.99), (16, 0.999)), "ce_recovered").series[0].marks
    assert low.y - middle.y == pytest.approx(middle.y - high.y, abs=0.3)
    assert low.x - middle.x == pytest.approx(middle.x - high.x, abs=0.3)
    assert low.random_y > low.y


def test_one_point_and_a_perfect_one_are_drawn(store):
    drawing = draw(made(store, (0.0, 1.0)), "ce_recovered")
    assert len(drawing.series[0].marks) == 1
    assert drawing.y_ticks


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"layer": 3}, "they differ in activations"),
        ({"hook": "mlp_out.2"}, r"they differ in hook \((mlp_out.2 and resid_post.2|resid_post.2 and mlp_out.2)\)"),
        ({"ce_tokens": 5}, "they differ in evaluation settings"),
    ],
)
def test_evaluations_of_different_things_are_refused(store, other, what):
    evaluations = [publish_evaluation(store, topk(4)), publish_evaluation(store, topk(8), **other)]
    with pytest.raises(InputError, match=what):
        compare(store, evaluations)


def test_nothing_and_the_same_twice_are_refused(store):
    evaluation = publish_evaluation(store, topk(4))
    with pytest.raises(InputError, match="nothing to compare"):
        compare(store, [])
    with pytest.raises(InputError, match="named twice"):
        compare(store, [evaluation, evaluation])


def test_an_autoencoder_that_was_removed_is_named(store):
    evaluation = publish_evaluation(store, topk(4))
    remove_artifact(store, evaluation.manifest.inputs["sae"].uri)
    with pytest.raises(NotFound, match=evaluation.manifest.inputs["sae"].uri):
        compare(store, [evaluation])
