"""Explaining some features: a base is kept and added to, as if by one run over both; what does not fit is refused."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError, InputError
from mistudio.explain import ExplainConfig, explain, newest_explanations, read_explanations
from mistudio.explain.program import ProgramExplainer
from mistudio.explain.records import Evidence, Explanation
from mistudio.score import ScoreConfig, score
from mistudio.settings import validated
from tests.support.scripted_llm import Clerk, judge_source
from tests.support.scripted_server import Fault, ScriptedServer
from tests.support.tiny_run import CPU, TinyRun

CONFIG = ExplainConfig(block_features=4, max_tokens=20_000)
TABLES = ("explanations.parquet", "token_sets.parquet", "labels.parquet")
Row = dict[str, Any]


def only(selection: str | None, config: ExplainConfig = CONFIG) -> ExplainConfig:
    return config.model_copy(update={"only": selection})


def rows(artifact: Artifact, name: str) -> list[Row]:
    read: list[Row] = pq.read_table(artifact.file(name)).to_pylist()
    return read


def explained(artifact: Artifact) -> list[int]:
    return [row.feature for row in read_explanations(artifact)]


def test_a_selection_added_to_a_base_is_one_run_over_both(llama: TinyRun, features: Artifact) -> None:
    line = (llama.store, features, llama.source, CPU)
    first = explain(*line, only("1,20-25,60")).artifact
    assert explained(first) == [1, 20, 21, 22, 23, 24, 25, 60]
    added = explain(*line, only("24-27,3"), base=first).artifact
    both = explain(*line, only("1,3,20-27,60")).artifact
    for name in TABLES:
        assert rows(added, name) == rows(both, name)
    everything = explain(*line, only(None)).artifact
    of_both = set(explained(both))
    assert rows(both, TABLES[0]) == [row for row in rows(everything, TABLES[0]) if row["feature"] in of_both]
    assert added.manifest.inputs["base"].digest == first.digest
    summary = added.manifest.summary
    assert (summary["features"], summary["selected"], summary["kept_from_base"]) == (64, 5, 8)
    assert summary["not_explained"] == 64 - 11
    assert summary["explained"] + summary["dead"] + summary["failed"] == 11
    content = [json.loads(each.file("explanations.json").read_bytes()) for each in (added, both)]
    assert content[0] == content[1]
    assert "not_explained" not in everything.manifest.summary


def test_what_the_base_holds_already_is_the_base_itself(llama: TinyRun, features: Artifact) -> None:
    line = (llama.store, features, llama.source, CPU)
    first = explain(*line, only("1,20-25")).artifact
    again = explain(*line, only("21-22"), base=first)
    assert (again.found, again.artifact.uri) == (True, first.uri)
    rest = explain(*line, only(None), base=first).artifact  # without a selection, all that is missing
    assert explained(rest) == list(range(64))
    assert rest.manifest.summary["kept_from_base"] == 7


def test_programs_are_searched_for_the_selected_features_alone_and_a_cut_run_goes_on(
    llama: TinyRun, features: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = (llama.store, features, llama.source, CPU)
    first = explain(*line, only("30")).artifact
    both, seen, allowed = ProgramExplainer.explain_both, [], 5

    def counting(self: ProgramExplainer, evidence: Iterable[Evidence]) -> Iterator[tuple[Explanation, Explanation]]:
        for each in both(self, evidence):
            if len(seen) == allowed:
                raise KeyboardInterrupt
            seen.append(each[0].feature)
            yield each

    monkeypatch.setattr(ProgramExplainer, "explain_both", counting)
    with pytest.raises(KeyboardInterrupt):
        explain(*line, only("28-36"), base=first)
    assert seen == [28, 29, 31, 32, 33]
    seen.clear()
    allowed = 1000
    resumed = explain(*line, only("28-36"), base=first).artifact
    assert seen == [33, 34, 35, 36]  # from the second block on
    assert rows(resumed, TABLES[0]) == rows(explain(*line, only("28-36")).artifact, TABLES[0])


def test_a_language_model_is_asked_about_new_features_alone_and_again_where_it_gave_no_answer(
    llama: TinyRun,
    features: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path))  # nothing is remembered from elsewhere
    line = (llama.store, features, llama.source, CPU)
    config = ExplainConfig(explainers=("max-activating", "program"), block_features=4, max_tokens=20_000)
    failing = True

    def script(_prompt: str, _attempt: int) -> Fault | None:
        return Fault("status", 400, message="no") if failing and len(server.asked) == 2 else None

    caplog.set_level("INFO", "mistudio")
    with ScriptedServer(Clerk(), script) as server:
        judge = judge_source(llama.store, "max-activating", server.url, "clerk", json.dumps({"concurrency": 1}))
        assert judge is not None
        first = explain(*line, only("10-14", config), judge=judge).artifact
        assert "max-activating: clerk is asked about 5 of 64 features, in about 5 prompts" in caplog.text
        assert (len(server.answered), first.manifest.summary["explained"]) == (4, 5)  # by programs, all
        failing = False
        asked = len(server.asked)
        added = explain(*line, only("14-16", config), judge=judge, base=first).artifact
        assert len(server.asked) == asked + 2
        repaired = explain(*line, only("10-12", config), judge=judge, base=added).artifact
        assert len(server.asked) == asked + 3
        found = explain(*line, only("10-12", config), judge=judge, base=repaired)
        assert (found.found, found.artifact.uri, len(server.asked)) == (True, repaired.uri, asked + 3)
        both = explain(*line, only("10-16", config), judge=judge).artifact
        assert len(server.asked) == asked + 3  # all answers are remembered
    for name in TABLES:
        assert rows(repaired, name) == rows(both, name)
    spent = [json.loads(each.file("explanations.json").read_bytes())["spending"] for each in (repaired, both)]
    assert spent[0] == spent[1]
    assert spent[0]["answers"] == 7


def test_the_best_are_those_of_the_scores_given(llama: TinyRun, features: Artifact) -> None:
    line = (llama.store, features, llama.source, CPU)
    everything = explain(*line, only(None)).artifact
    scores = score(llama.store, everything, llama.source, CPU, ScoreConfig(resamples=20)).artifact
    by_value = {
        row["feature"]: row["value"]
        for row in rows(scores, "scores.parquet")
        if (row["explainer"], row["scorer"], row["metric"]) == ("program", "program", "f1")
    }
    defined = [feature for feature, value in by_value.items() if value == value]
    best = sorted(sorted(defined, key=lambda feature: (-by_value[feature], feature))[:6])
    other = ExplainConfig(block_features=4, max_tokens=30_000, only="best:6")
    made = explain(*line, other, scores=scores).artifact
    assert explained(made) == best
    assert made.manifest.inputs["best_by"].digest == scores.digest
    with pytest.raises(InputError, match="best:6, which needs scores of these features .*: give --scores scores/…"):
        explain(*line, other)
    with pytest.raises(InputError, match="there to choose the best features: ask for them"):
        explain(*line, only("1"), scores=scores)


def test_unlabelled_features_are_those_of_the_base(llama: TinyRun, features: Artifact) -> None:
    line = (llama.store, features, llama.source, CPU)
    first = explain(*line, only("5-60")).artifact
    made = explain(*line, only("unlabelled"), base=first).artifact
    assert explained(made) == list(range(64))
    with pytest.raises(InputError, match="the term unlabelled, which needs explanations"):
        explain(*line, only("unlabelled"))


def test_peoples_labels_stay_with_what_is_added_to(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    line = (llama.store, features, llama.source, CPU)
    path = tmp_path / "mine.csv"
    path.write_text("feature,label\n7,greetings\n40,numbers\n", encoding="utf-8")
    first = explain(*line, only("6-8"), labels=path).artifact
    assert explained(first) == [6, 7, 7, 8, 40]
    added = explain(*line, only("9"), base=first).artifact
    assert {row["feature"]: row["label"] for row in rows(added, TABLES[2])}[40] == "numbers"
    path.write_text("feature,label\n7,farewells\n", encoding="utf-8")
    other = explain(*line, only("6-8"), labels=path, base=first).artifact
    assert {row["feature"]: row["label"] for row in rows(other, TABLES[2])}[7] == "farewells"
    assert explained(other) == [6, 7, 7, 8]
    assert [each.explainer for each in read_explanations(other)][1:3] == ["person", "program"]  # a person's come first


def test_a_base_that_was_made_otherwise_is_refused_and_never_chosen(llama: TinyRun, features: Artifact) -> None:
    line = (llama.store, features, llama.source, CPU)
    config = ExplainConfig(block_features=4, max_tokens=21_000)
    assert newest_explanations(*line, only("3", config)) is None
    first = explain(*line, only("1", config)).artifact
    second = explain(*line, only("2", config), base=first).artifact
    newest = newest_explanations(*line, only("3", config))
    assert newest is not None
    assert (newest.artifact.uri, newest.num_kept, newest.num_held) == (
        second.uri,
        2,
        2,
    )  # also where both are of one second
    with pytest.raises(InputError, match=f"base {first.uri} cannot be added to: its max_tokens is 21000, not 20000"):
        explain(*line, only("3"), base=first)
    with pytest.raises(InputError, match="its seed is 0, not 5"):
        explain(*line, only("3", config), seed=5, base=first)
    assert newest_explanations(*line, only("3", config), seed=5) is None


def test_a_malformed_selection_is_refused_with_the_settings() -> None:
    for config in (ExplainConfig, ScoreConfig):
        with pytest.raises(ConfigError, match="only has the range 9-3, which ends before it begins: write 3-9"):
            validated(config, {"only": "9-3"})
        assert validated(config, {"only": " 5, 05,best:3"}).only == "5,best:3"


def test_features_that_there_are_not_are_refused(llama: TinyRun, features: Artifact) -> None:
    with pytest.raises(InputError, match="the term 60-64, but there are features 0 to 63"):
        explain(llama.store, features, llama.source, CPU, only("60-64"))
