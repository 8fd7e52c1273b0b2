"""Explain and score with a language model behind an endpoint, as the command line starts them."""

import json
import logging
import traceback
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError, InputError
from mistudio.explain import ExplainConfig, explain, read_explanations
from mistudio.score import ScoreConfig, read_scores, score
from mistudio.steps import run_step
from tests.support.scripted_llm import Clerk, judge_source
from tests.support.scripted_server import Answer, Fault, ScriptedServer
from tests.support.tiny_run import CPU, TinyRun


def test_a_language_model_explains_and_judges_and_is_asked_nothing_twice(llama: TinyRun, features: Artifact) -> None:
    line = (llama.store, features, llama.source, CPU)
    with ScriptedServer(Clerk()) as server:
        judge = judge_source(llama.store, "max-activating", server.url, "clerk")
        config = ExplainConfig(explainers=("program", "max-activating"))
        explained = explain(*line, config, judge=judge).artifact
        num_asked = len(server.answered)
        written = [row for row in read_explanations(explained) if row.model == "clerk" and row.status == "explained"]
        assert num_asked == len(written) > 50
        assert {row.text for row in written} == {"anything at all"}
        assert all(row.prompt and row.documents for row in written)
        assert json.loads(explained.file("explanations.json").read_bytes())["spending"]["answers"] == num_asked

        turned = ExplainConfig(explainers=("max-activating", "program"))
        assert not explain(*line, turned, judge=judge).found
        assert len(server.answered) == num_asked

        scoring = ScoreConfig(scorers=("program", "detection"), resamples=50)
        scored = score(llama.store, explained, llama.source, CPU, scoring, judge=judge).artifact
        assert len(server.answered) > num_asked
    figures = [row for row in read_scores(scored) if row.scorer == "detection" and row.metric == "balanced_accuracy"]
    told = [row.value for row in figures if row.value == row.value]
    assert len(told) > 100
    assert told == pytest.approx([0.5] * len(told))
    kinds = {(row.explainer, row.scorer) for row in read_scores(scored)}
    assert {("program", "detection"), ("max-activating", "detection"), ("program", "program")} <= kinds


def test_half_a_judge_is_refused(llama: TinyRun) -> None:
    for url, model in (("http://localhost:1/v1", ""), ("nowhere", "x")):
        with pytest.raises(ConfigError):
            judge_source(llama.store, "contrastive", url, model)
    assert judge_source(llama.store, "program") is None


def test_other_settings_of_the_judge_are_a_json_object(llama: TinyRun) -> None:
    def judge(settings: str) -> dict[str, Any]:
        source = judge_source(llama.store, "contrastive", "http://localhost:1/v1", "clerk", settings)
        assert source is not None
        return dict(source.settings)

    assert judge("")["temperature"] == 0.0
    assert judge('{"temperature": null, "thinking_tokens": 500}') == {
        **judge(""),
        "temperature": None,
        "thinking_tokens": 500,
    }
    assert judge('{"concurrency": 32, "usd_per_million_in": 1}') == judge("")  # they change no answer
    for wrong, message in (
        ("temperature=0", "judge_settings is not JSON: 'temperature=0'"),
        ("[1]", "judge_settings is not a JSON object"),
        ('{"concurrency": 0}', "concurrency: input should be greater than or equal to 1, not 0"),
        ('{"tempreature": 0}', "tempreature: extra inputs are not permitted"),
        ('{"model": "other"}', "settings hold model, for which"),
    ):
        with pytest.raises(ConfigError, match=message):
            judge(wrong)


KEY = "a-key-that-nobody-may-see"


class Indiscreet(Clerk):
    """Repeats the key wherever it can."""

    def chat(self, _system: str, _prompt: str) -> Answer:
        return Answer(json.dumps({"explanation": f"the key {KEY}", "label": KEY}))


def test_a_key_that_the_endpoint_repeats_is_in_nothing_that_a_step_leaves(
    llama: TinyRun,
    features: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    client = MagicMock()
    monkeypatch.setattr("mistudio.tracking.runs.connected", lambda _store: (client, "1"))
    monkeypatch.setenv("MISTUDIO_TRACKING", "on")
    monkeypatch.setenv("MISTUDIO_EVENTS", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("MISTUDIO_LLM_API_KEY", f"{KEY}\n")
    caplog.set_level(logging.DEBUG)
    tried = Counter[str]()

    def script(prompt: str, _attempt: int) -> Fault | None:
        """Some requests fail for good, some in passing; at the end the key is refused."""
        tried[prompt] += 1
        place = list(tried).index(prompt)
        status = {0: 400, 1: 500, 40: 401}.get(place, 0) if place == 0 or tried[prompt] == 1 else 0
        return Fault("status", status, message=f"trouble with {KEY} and {prompt}") if status else None

    given = {"features": features.uri, "explainer": "max-activating", "block_features": 16, "store": llama.store.url}
    judge = {"judge_model": "clerk", "judge_settings": {"concurrency": 1, "backoff_s": 0.001}, "device": "cpu"}
    with ScriptedServer(Indiscreet(), script) as server:
        asked = {**given, **judge, "model": str(llama.source.path), "judge_url": server.url}
        with pytest.raises(InputError, match="refuses model 'clerk'") as caught:
            run_step("explain", **asked)
        explained = run_step("explain", **asked).artifact
    assert {asked.key for asked in server.asked} == {f"Bearer {KEY}"}
    texts = Counter(row.text.split(" - ")[0] for row in read_explanations(explained) if row.status != "dead")
    assert texts["the key ***"] > 50
    assert texts["Error code: 400"] == 1
    seen = ["".join(traceback.format_exception(caught.value)), caplog.text, *capfd.readouterr(), str(client.mock_calls)]
    assert not any(KEY in text or "<<" in text for text in seen)  # which mark tokens in prompts
    assert "log_batch" in seen[-1]
    files = [path for folder in (tmp_path, explained.file("explanations.parquet").parent) for path in folder.rglob("*")]
    assert {"events.jsonl", "answers.sqlite", "explanations.parquet"} <= {path.name for path in files}
    assert not any(KEY.encode() in path.read_bytes() for path in files if path.is_file())
