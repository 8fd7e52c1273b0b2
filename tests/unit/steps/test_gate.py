"""The quality gate: what falls short is named with its figures."""

from pathlib import Path

import pytest

from mistudio import steps
from mistudio.artifacts import Recipe, open_store, produce
from mistudio.errors import ConfigError, GateFailed


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, str]:
    store = open_store(str(tmp_path))
    figures = {
        "evaluation": {"explained_variance": 0.9, "ce_recovered": None, "dead_fraction": 0.25},
        "scores": {"interpretable": 40},
    }
    made = {
        kind: produce(store, Recipe(kind=kind, config={}, inputs={}, seed=0), kind, lambda _draft, s=summary: s)
        for kind, summary in figures.items()
    }
    return {**{kind: each.artifact.uri for kind, each in made.items()}, "store": str(tmp_path)}


def test_nothing_is_asked_for_by_default(measured: dict[str, str]) -> None:
    assert steps.call("gate", **measured) == ""


def test_limits_that_hold_pass(measured: dict[str, str]) -> None:
    assert steps.call("gate", **measured, min_explained_variance=0.9, max_dead=0.25, min_interpretable=40) == ""


def test_all_that_falls_short_is_named_with_its_figure(measured: dict[str, str]) -> None:
    missed = steps.call("gate", **measured, min_explained_variance=0.95, max_dead=0.2, min_interpretable=50)
    assert missed == (
        "explained variance 0.9, asked for at least 0.95; dead features 0.25, asked for at most 0.2; "
        "interpretable features 40, asked for at least 50"
    )


def test_it_says_of_how_many_the_interpretable_features_are_where_not_all_were_scored(
    tmp_path: Path, measured: dict[str, str]
) -> None:
    some = {"interpretable": 40, "scored": 50, "features": 4096}
    recipe = Recipe(kind="scores", config={"only": "0-49"}, inputs={}, seed=0)
    scores = produce(open_store(str(tmp_path)), recipe, "score", lambda _draft: some).artifact.uri
    missed = steps.call("gate", **{**measured, "scores": scores}, min_interpretable=60)
    assert missed == "interpretable features (of 50 scored, of 4,096 features) 40, asked for at least 60"


def test_a_figure_that_was_not_measured_does_not_pass(measured: dict[str, str]) -> None:
    assert steps.call("gate", **measured, min_ce_recovered=0.5) == "CE recovered not measured, asked for at least 0.5"


@pytest.mark.parametrize("limit", [{"min_explained_variance": 1.5}, {"max_dead": -0.1}, {"min_interpretable": -1}])
def test_a_limit_out_of_range_is_refused_by_name(measured: dict[str, str], limit: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limit))):
        steps.call("gate", **measured, **limit)


def test_a_run_that_falls_short_ends_with_what_is_missed() -> None:
    with pytest.raises(GateFailed, match="gate failed: dead features 0.25, asked for at most 0.2"):
        steps.call("fail_gate", missed="dead features 0.25, asked for at most 0.2")
