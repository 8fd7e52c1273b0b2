"""What is said of the steps of a pipeline that did not end well."""

from pathlib import Path

import pytest

from mistudio.errors import ConfigError
from mistudio.events import Event, Failed, Finished, Started, append
from mistudio.runs.outcome import failure, step_states


def failure_of(folder: Path, *events: Event, error: Exception | None = None) -> tuple[str, int]:
    (folder / "steps.log").write_text("a line of the log\n")
    for event in events:
        append(folder / "events.jsonl", event)
    steps = step_states(folder / "events.jsonl")
    return failure("pipeline", steps, folder / "steps.log", error or RuntimeError("Pipeline failed"))


def started(pid: int, about: str) -> Started:
    return Started(pid=pid, step="train", about=about)


def failed(pid: int, about: str, exit_code: int = 2) -> Failed:
    return Failed(pid=pid, step="train", about=about, message="no such thing", exit_code=exit_code)


def test_every_failed_step_is_named_and_nothing_else_is_said(tmp_path: Path) -> None:
    first, second = "topk, k 4, seed 0", "topk, k 4, seed 1"
    events = (started(1, first), started(2, second), failed(1, first), failed(2, second))
    message, exit_code = failure_of(tmp_path, *events)
    assert message == f"train ({first}): no such thing\ntrain ({second}): no such thing"
    assert exit_code == 2


def test_a_step_that_was_killed_is_named_with_the_end_of_the_log(tmp_path: Path) -> None:
    done = Finished(
        pid=1, step="train", about="topk", found=False, seconds=1.0, uri="sae/1", digest="1", summary={"l0": 4.0}
    )
    message, exit_code = failure_of(tmp_path, started(1, "topk"), started(2, "gated"), done)
    assert "train (gated): ended without a result: was it killed?" in message
    assert "topk" not in message
    assert "a line of the log" in message
    assert exit_code == 1


@pytest.mark.parametrize("events", [(), (failed(1, "", exit_code=1),)])
def test_an_error_that_was_not_meant_shows_the_end_of_the_log(tmp_path: Path, events: tuple[Event, ...]) -> None:
    message, exit_code = failure_of(tmp_path, *events)
    assert message.startswith("The pipeline failed: ")
    assert ("train: no such thing" if events else "Pipeline failed") in message
    assert "a line of the log" in message
    assert exit_code == 1


def test_an_error_before_any_step_is_told_in_its_own_words(tmp_path: Path) -> None:
    assert failure_of(tmp_path, error=ConfigError("There is no pipeline 'x'.")) == ("There is no pipeline 'x'.", 2)
