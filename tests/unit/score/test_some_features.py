"""Scoring some features: scores that still hold are kept, as if by one run; what is left out is counted apart."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mistudio.artifacts import Artifact, open_artifact
from mistudio.cli import app
from mistudio.errors import InputError
from mistudio.exchange.export import export_features
from mistudio.explain import ExplainConfig, explain
from mistudio.features import FeatureSet
from mistudio.report.interpretation import Interpretation
from mistudio.score import ScoreConfig, newest_scores, score
from tests.support.scripted_llm import Clerk, judge_source
from tests.support.scripted_server import ScriptedServer
from tests.support.tiny_run import CPU, TinyRun

CONFIG = ScoreConfig(block_features=4, resamples=20, max_tokens=20_000)
EXPLAINING = ExplainConfig(block_features=16, max_tokens=20_000)
Row = dict[str, Any]


def rows(scores: Artifact) -> list[str]:
    return [str(row) for row in pq.read_table(scores.file("scores.parquet")).to_pylist()]  # where NaN equals NaN


def content(scores: Artifact) -> Row:
    read: Row = json.loads(scores.file("scores.json").read_bytes())
    return read


def explained(llama: TinyRun, features: Artifact, only: str | None, base: Artifact | None = None) -> Artifact:
    config = EXPLAINING.model_copy(update={"only": only})
    return explain(llama.store, features, llama.source, CPU, config, base=base).artifact


def scored(llama: TinyRun, explanations: Artifact, only: str | None = None, **given: Any) -> Artifact:
    config = given.pop("config", CONFIG).model_copy(update={"only": only})
    return score(llama.store, explanations, llama.source, CPU, config, **given).artifact


def test_scores_of_explanations_that_were_added_to_are_those_of_one_run(llama: TinyRun, features: Artifact) -> None:
    some = explained(llama, features, "10-20")
    first = scored(llama, some)
    more = explained(llama, features, "18-30", base=some)
    added, alone = scored(llama, more, base=first), scored(llama, more)
    assert rows(added) == rows(alone)
    assert (added.manifest.summary["kept_from_base"], alone.manifest.summary["kept_from_base"]) == (11, 0)
    for scores in (added, alone):
        summary = scores.manifest.summary
        assert (summary["features"], summary["scored"], summary["not_explained"]) == (64, 21, 43)
    assert content(added)["means"] == content(alone)["means"]
    assert content(added)["heldout"] == content(alone)["heldout"]


def test_a_selection_scored_after_another_is_one_run_over_both(llama: TinyRun, features: Artifact) -> None:
    everything = explained(llama, features, None)
    first = scored(llama, everything, "10-14")
    added = scored(llama, everything, "13-16,40", base=first)
    assert rows(added) == rows(scored(llama, everything, "10-16,40"))
    assert added.manifest.summary["scored"] == 8
    assert scored(llama, everything, "11", base=added).uri == added.uri
    config = CONFIG.model_copy(update={"only": "50"})
    newest = newest_scores(llama.store, everything, llama.source, CPU, config)
    assert newest is not None
    assert newest.num_kept >= 8


def test_the_base_is_what_keeps_most_of_these_explanations_and_not_the_newest(
    llama: TinyRun, features: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = CONFIG.model_copy(update={"resamples": 22})

    def explained_by(name: str, numbers: range, only: str) -> Artifact:
        path = tmp_path / f"{name}.csv"
        path.write_text("feature,label\n" + "".join(f"{number},{name} {number}\n" for number in numbers), "utf-8")
        own = EXPLAINING.model_copy(update={"only": only})
        return explain(llama.store, features, llama.source, CPU, own, labels=path).artifact

    def base_of(explanations: Artifact) -> Any:
        selected = config.model_copy(update={"only": "12"})
        return newest_scores(llama.store, explanations, llama.source, CPU, selected)

    these, others = explained_by("these", range(10, 14), "10-13"), explained_by("others", range(10, 14), "10-13")
    assert base_of(these) is None
    full = scored(llama, these, config=config)
    scored(llama, others, config=config)  # newer, and of explanations that have all changed
    scored(llama, these, "11", config=config)
    assert base_of(these) == (full, 4, 4)
    alike = explained_by("these", range(10, 12), "10-13")  # the labels of two were taken away
    assert base_of(alike) == (full, 2, 4)
    assert str(base_of(alike)) == f"Kept 2 of 4 from {full.uri}"
    fewer = scored(llama, alike, "10-11", config=config)
    assert base_of(alike) == (fewer, 2, 2)  # of these very explanations, where both keep as much
    fresh = explained_by("fresh", range(10, 14), "10-13")
    assert base_of(fresh) is None

    caplog.set_level("INFO", "mistudio")
    some = scored(llama, these, "12-14,50", config=config)
    assert "2 of 4 selected features have no explanation to be scored." in caplog.text
    assert some.manifest.summary["selected_not_explained"] == 2


def test_an_explanation_that_has_changed_is_scored_again(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    def labelled(text: str) -> Artifact:
        path = tmp_path / "labels.csv"
        path.write_text(f"feature,label\n10,{text}\n", encoding="utf-8")
        config = EXPLAINING.model_copy(update={"only": "10-13"})
        return explain(llama.store, features, llama.source, CPU, config, labels=path).artifact

    first = scored(llama, labelled("greetings"))
    changed = scored(llama, labelled("farewells"), base=first)
    assert changed.manifest.summary["kept_from_base"] == 3
    assert rows(changed) == rows(first)  # programs, which have not changed


def test_a_judge_is_asked_about_new_explanations_alone(
    llama: TinyRun,
    features: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path))  # nothing is remembered from elsewhere
    everything = explained(llama, features, None)
    config = CONFIG.model_copy(update={"scorers": ("detection", "program")})
    caplog.set_level("INFO", "mistudio")
    with ScriptedServer(Clerk()) as server:
        judge = judge_source(llama.store, "detection", server.url, "clerk")
        first = scored(llama, everything, "10-12", config=config, judge=judge)
        assert "detection: clerk judges 3 explanations of 3 features, in at most 24 requests" in caplog.text
        asked = len(server.answered)
        assert 0 < asked <= 24
        added = scored(llama, everything, "12-13", config=config, judge=judge, base=first)
        assert asked < len(server.answered) <= asked + 8
        asked = len(server.answered)
        both = scored(llama, everything, "10-13", config=config, judge=judge)
        assert len(server.answered) == asked
    assert rows(added) == rows(both)
    assert content(added)["spending"] == content(both)["spending"]


def test_what_cannot_be_scored_or_added_to_is_refused(llama: TinyRun, features: Artifact) -> None:
    some = explained(llama, features, "10-20")
    first = scored(llama, some)
    with pytest.raises(
        InputError, match=r"only '30-40' selects 11 features, and explanations/\w+ explains none of them"
    ):
        scored(llama, some, "30-40")
    with pytest.raises(InputError, match=r"best:3, which needs scores of these features .*: give --best-by scores/…"):
        scored(llama, some, "best:3")
    with pytest.raises(InputError, match=f"base {first.uri} cannot be added to: its resamples is 20, not 30"):
        scored(llama, some, config=CONFIG.model_copy(update={"resamples": 30}), base=first)
    best = scored(llama, some, "best:3", best_by=first)
    assert best.manifest.summary["scored"] == 3


def test_who_reads_them_counts_what_was_not_asked_for_apart(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    some = explained(llama, features, "0-20")
    scores = scored(llama, some, "5-20")
    told = Interpretation(scores, some, 64)
    assert (told.not_explained, told.not_scored) == (43, 48)
    facts = dict(told.facts())
    assert facts["not explained: nobody was asked"] == "43"
    assert facts["interpretable: F1 ≥ 0.8"] == f"{told.interpretable} of 16 asked for"
    assert facts["more than 50 interpretable, under 20% dead"] == "not known: not all were asked for"
    distribution = told.distribution()
    assert distribution["not_scored"] == 48
    assert distribution["undefined"] + sum(distribution["counts"]) == 16
    assert told.detail(40) == {"explanations": [], "scores": []}
    found = FeatureSet(features, some, scores)
    assert found.explanations(40) == found.scores(40) == []
    assert found.row(40)["label"] is None
    for name in ("jsonl", "parquet"):
        assert export_features(llama.store, features, tmp_path / name, name, some, scores).rows["explanations"] == 21
    tree = export_features(llama.store, features, tmp_path / "tree", "neuronpedia", some)
    assert tree.rows["explanations"] + tree.rows["left_out"] == 21


def test_the_commands_add_to_the_newest_and_say_so(
    llama: TinyRun, features: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    caplog.set_level("INFO", "mistudio")
    runner = CliRunner()

    def run(step: str, *options: str) -> tuple[Artifact, str]:
        caplog.clear()
        common = ["--store", llama.store.url, "--model", str(llama.source.path), "--device", "cpu", "--json"]
        done = runner.invoke(app, [step, *options, *common], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return open_artifact(llama.store, json.loads(done.stdout)["artifact_uri"]), caplog.text

    explaining = ("explain", "--features", features.uri, "--max-tokens", "22000")
    first, told = run(*explaining, "--only", "5-8")
    assert "Kept" not in told
    second, told = run(*explaining, "--only", "8-9,densest:2")
    assert f"Kept 4 of 4 from {first.uri}; --base none starts anew." in told
    assert second.manifest.inputs["base"].uri == first.uri
    assert second.manifest.summary["kept_from_base"] == 4
    again, _ = run(*explaining, "--set", "only=8-9")
    assert again.uri == second.uri
    anew, told = run(*explaining, "--only", "30", "--base", "none")
    assert "base" not in anew.manifest.inputs
    assert "Kept" not in told
    onto, _ = run(*explaining, "--only", "31", "--base", second.uri)
    assert onto.manifest.summary["kept_from_base"] == second.manifest.summary["features"] - int(
        str(second.manifest.summary["not_explained"])
    )

    scoring = ("score", "--resamples", "21", "--explanations")
    scores, _ = run(*scoring, second.uri, "--only", "5-6")
    more, told = run(*scoring, onto.uri, "--only", "31")
    assert f"Kept 2 of 2 from {scores.uri}; --base none starts anew." in told
    assert (more.manifest.summary["scored"], more.manifest.summary["kept_from_base"]) == (3, 2)
    whole, told = run(*scoring, second.uri)
    assert "base" not in whole.manifest.inputs
