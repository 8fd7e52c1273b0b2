"""What is said of the steps of a pipeline that did not end well."""

import json
from pathlib import Path

import pytest

from mistudio.cli.display import RunView
from mistudio.cli.running import _failure


def failure_of(folder: Path, *events: dict) -> tuple[str, int]:
    (folder / "steps.log").write_text("a line of the log\n")
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    view = RunView(folder / "events.jsonl")
    failure = _failure(view, folder / "steps.log", RuntimeError("Pipeline failed"))
    return str(failure), failure.exit_code


def started(pid: int, about: str) -> dict:
    return {"event": "step_started", "pid": pid, "step": "train", "about": about}


def failed(pid: int, about: str, exit_code: int = 2) -> dict:
    return {**started(pid, about), "event": "step_failed", "message": "no such thing", "exit_code": exit_code}


def test_every_failed_step_is_named_and_nothing_else_is_said(tmp_path: Path) -> None:
    first, second = "topk, k 4, seed 0", "topk, k 4, seed 1"
    events = (started(1, first), started(2, second), failed(1, first), failed(2, second))
    message, exit_code = failure_of(tmp_path, *events)
    assert message == f"train ({first}): no such thing\ntrain ({second}): no such thing"
    assert exit_code == 2


def test_a_step_that_was_killed_is_named_with_the_end_of_the_log(tmp_path: Path) -> None:
    done = {"event": "step_finished", "pid": 1, "step": "train", "found": False, "seconds": 1.0, "uri": "sae/1"}
    message, exit_code = failure_of(tmp_path, started(1, "topk"), started(2, "gated"), done)
    assert "train (gated): ended without a result: was it killed?" in message
    assert "topk" not in message
    assert "a line of the log" in message
    assert exit_code == 1


@pytest.mark.parametrize("events", [(), (failed(1, "", exit_code=1),)])
def test_an_error_that_was_not_meant_shows_the_end_of_the_log(tmp_path: Path, events: tuple[dict, ...]) -> None:
    message, exit_code = failure_of(tmp_path, *events)
    assert message.startswith("The pipeline failed: ")
    assert ("train: no such thing" if events else "Pipeline failed") in message
    assert "a line of the log" in message
    assert exit_code == 1
