"""How long a run will take is said before it starts, from its settings and the model's shape."""

from pathlib import Path

import pytest

from mistudio.steps import check_together
from mistudio.steps.ahead import corpus_tokens, said, time_ahead
from mistudio.subject import resolve_source
from pipelines import interpret
from tests.support.tiny import tiny_llama

STEPS = ["ingest", "capture", "train", "evaluate", "find", "explain", "score", "report"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ahead") / "model"
    tiny_llama(folder)
    return folder


def seconds(model: Path, tokens: float = 1e9, **settings: object) -> dict[str, float]:
    asked = check_together(interpret.TAKES, {"model": str(model), "width": 32_768, **settings})
    ahead = time_ahead(asked, resolve_source(str(model)), tokens)
    assert [each.step for each in ahead] == STEPS
    return {each.step: each.seconds for each in ahead}


def test_each_step_takes_longer_where_there_is_more_to_do(model: Path) -> None:
    usual = seconds(model)
    more = seconds(model, 4e9)
    assert more["capture"] > 2 * usual["capture"]
    assert more["ingest"] > 2 * usual["ingest"]
    assert seconds(model, layer=0)["capture"] < usual["capture"]
    assert seconds(model, train_tokens=300_000_000)["train"] > 10 * usual["train"]
    assert seconds(model, find_settings='{"causal_tflop": 0.001}')["find"] < usual["find"]
    assert seconds(model, width=2048)["explain"] < usual["explain"] / 10
    assert seconds(model, explain_only="coherent:50")["explain"] < usual["explain"] / 10
    assert seconds(model, evaluate_settings='{"ce_tokens": 10}')["evaluate"] < usual["evaluate"]


def test_a_corpus_has_at_most_as_many_tokens_as_its_files_allow(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"x" * 4000)
    asked = {
        name: check_together({"ingest": interpret.TAKES["ingest"]}, values)["ingest"]
        for name, values in {
            "file": {"corpus": str(tmp_path / "text.txt")},
            "folder": {"corpus": str(tmp_path), "max_tokens": 600},
            "whole": {"corpus": "hf:some/where", "max_tokens": -1},
        }.items()
    }
    assert {name: corpus_tokens(each) for name, each in asked.items()} == {"file": 1000, "folder": 600, "whole": None}


def test_nothing_is_said_of_a_corpus_that_nobody_knows_the_size_of(model: Path) -> None:
    asked = check_together(interpret.TAKES, {"model": str(model)})
    assert time_ahead(asked, resolve_source(str(model)), None) == []


def test_the_sum_is_said_with_the_steps_that_take_most_of_it(model: Path) -> None:
    asked = check_together(interpret.TAKES, {"model": str(model)})
    text = said(time_ahead(asked, resolve_source(str(model)), 1e12))
    assert text.startswith("This will take about ")
    assert "capture" in text
    assert "report" not in text
