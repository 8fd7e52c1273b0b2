"""Progress: bars on a terminal, lines in a log, events for a parent process."""

import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mistudio import progress as progress_module
from mistudio.events import EVENTS_ENV
from mistudio.progress import byte_progress, progress


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_ENV, str(path))
    return path


@pytest.fixture
def no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS_ENV, raising=False)


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch, no_events: None) -> Callable[[], Terminal]:
    """To be called in the test itself: pytest sets standard error again after its fixtures."""

    def open_terminal() -> Terminal:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.delenv("NO_COLOR", raising=False)
        return terminal

    return open_terminal


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_gets_a_line_at_the_end(no_events: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress("Train", 2000, "tokens") as bar:
        bar.advance(1500, note="loss 0.5")
        bar.advance(500)
    assert caplog.messages == ["Train: 2,000 of 2,000 tokens loss 0.5"]


def test_the_last_line_stands_in_a_log_once(
    no_events: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module._LineBar, "every_s", 0)
    with caplog.at_level(logging.INFO), progress("Score", 2, "scorers") as bar:
        bar.advance()
        bar.advance()
    assert caplog.messages == ["Score: 1 of 2 scorers", "Score: 2 of 2 scorers"]


def test_a_log_gets_lines_now_and_then(
    no_events: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module._LineBar, "every_s", 0)
    with caplog.at_level(logging.INFO), progress("Read", None, "documents") as bar:
        bar.advance()
        bar.advance(2)
    assert caplog.messages == [f"Read: {done} documents" for done in (1, 3)]


def test_work_that_fails_is_not_reported_as_done(
    no_events: None, caplog: pytest.LogCaptureFixture, events: Path
) -> None:
    def fail() -> None:
        with progress("Train", 10):
            raise ZeroDivisionError

    with caplog.at_level(logging.INFO), pytest.raises(ZeroDivisionError):
        fail()
    assert caplog.messages == []
    assert [event["finished"] for event in read(events)] == [False]


def test_a_parent_process_gets_events_from_start_to_end(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module._EventBar, "every_s", 0)
    with progress("Train", 10, "tokens") as bar:
        bar.advance(4, note="loss 0.5")
        bar.advance(6)
    got = read(events)
    assert [(event["done"], event["note"], event["finished"]) for event in got] == [
        (0, "", False),
        (4, "loss 0.5", False),
        (10, "loss 0.5", False),
        (10, "loss 0.5", True),
    ]
    assert {(event["event"], event["what"], event["total"], event["unit"]) for event in got} == {
        ("progress", "Train", 10, "tokens")
    }


def test_events_are_limited_in_number(events: Path) -> None:
    with progress("Train", 10_000) as bar:
        for _ in range(10_000):
            bar.advance()
    assert len(read(events)) < 100
    assert read(events)[-1]["done"] == 10_000


def test_a_terminal_shows_a_bar(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    with progress("Train", 10, "tokens") as bar:
        bar.advance(10, note="loss [0.5] [/x]")
    assert "Train" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert "loss [0.5] [/x]" in terminal.getvalue()


@pytest.mark.parametrize("total", [None, 0])
def test_a_terminal_shows_work_of_unknown_or_no_length(
    open_terminal: Callable[[], Terminal], total: float | None
) -> None:
    terminal = open_terminal()
    with progress("Read [x]", total) as bar:
        bar.advance(3)
    assert "Read [x]" in terminal.getvalue()


def test_bytes_are_shown_only_where_they_take_a_while(events: Path) -> None:
    with byte_progress("Verify small", (1 << 28) - 1) as bar:
        bar.advance(1)
    assert not events.exists()
    with byte_progress("Verify large", 1 << 28) as bar:
        bar.advance(1 << 28)
    assert [event["what"] for event in read(events)][-1] == "Verify large"
