"""Events: typed, one line each, whoever writes them."""

import json
import logging
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mistudio.events import (
    EVENTS_ENV,
    Event,
    EventReader,
    Failed,
    Finished,
    Message,
    Metrics,
    Progress,
    Started,
    append,
    emit,
    emit_metrics,
    working_on,
)

ONE_OF_EACH: tuple[Event, ...] = (
    Started(step="train", about="k 4"),
    Progress(what="Train", done=5, total=None, unit="tokens", note="FVU 0.5"),
    Metrics(run="train", number=7, values={"fvu": 0.5, "l0": 4.0}),
    Message(text="Gate passed"),
    Finished(step="train", uri="sae/1", digest="d", found=False, seconds=1.5, summary={"l0": 4.0, "hook": "x"}),
    Failed(step="train", message="no such thing", exit_code=2),
)


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_ENV, str(path))
    return path


def test_every_event_is_read_as_it_was_written(events: Path) -> None:
    for event in ONE_OF_EACH:
        emit(event)
    assert EventReader(events).read() == list(ONE_OF_EACH)
    assert {json.loads(line)["version"] for line in events.read_text().splitlines()} == {1}


def test_a_reader_gives_each_event_once_and_waits_for_the_end_of_a_line(events: Path) -> None:
    reader = EventReader(events)
    assert reader.read() == []
    append(events, ONE_OF_EACH[0])
    line = ONE_OF_EACH[1].model_dump_json().encode()
    with events.open("ab") as handle:
        handle.write(line[:20])
    assert reader.read() == [ONE_OF_EACH[0]]
    with events.open("ab") as handle:
        handle.write(line[20:] + b"\n")
    assert reader.read() == [ONE_OF_EACH[1]]
    assert reader.read() == []


def test_a_line_of_another_version_is_left_out_with_a_warning(events: Path, caplog: pytest.LogCaptureFixture) -> None:
    events.write_text('{"version": 2, "event": "started"}\nno JSON\n')
    append(events, ONE_OF_EACH[0])
    with caplog.at_level(logging.WARNING):
        assert EventReader(events).read() == [ONE_OF_EACH[0]]
    assert len(caplog.messages) == 2


def test_events_of_several_processes_are_whole_lines(events: Path) -> None:
    code = """
from mistudio.events import Message, emit
for number in range(200):
    emit(Message(text="x" * 9000))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    got = EventReader(events).read()
    assert len(got) == 600
    assert {event.pid for event in got} == {process.pid for process in processes}


def test_an_event_goes_nowhere_if_nobody_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    emit(Started())
    emit_metrics("train", {"fvu": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_figures_that_are_no_numbers_are_left_out_and_those_that_are_not_finite_stay(events: Path) -> None:
    emit_metrics("train", {"fvu": math.nan, "l0": math.inf, "hook": "resid_post.1", "none": None}, 3)
    (event,) = EventReader(events).read()
    assert isinstance(event, Metrics)
    assert math.isnan(event.values.pop("fvu"))
    assert (event.values, event.number) == ({"l0": math.inf}, 3)


def test_events_name_the_step_of_their_thread(events: Path) -> None:
    both = threading.Barrier(2)

    def work(step: str) -> None:
        with working_on(step, "here"):
            both.wait()
            emit(Message(text=step))

    threads = [threading.Thread(target=work, args=(step,)) for step in ("train", "find")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emit(Message(text=""))
    got = EventReader(events).read()
    assert sorted((event.step, event.text) for event in got) == [("", ""), ("find", "find"), ("train", "train")]


def test_no_secret_of_the_environment_is_written(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-long-secret")
    emit(Failed(message="refused: a-long-secret", exit_code=2))
    emit(Message(text="with a-long-secret"))
    assert "a-long-secret" not in events.read_text()
    assert [json.loads(line).get("message") for line in events.read_text().splitlines()] == ["refused: ***", None]


def test_a_file_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(EVENTS_ENV, str(tmp_path / "none" / "events.jsonl"))
    for _ in range(2):
        emit(Started(step="train"))
    assert caplog.text.count("cannot be written") == 1
