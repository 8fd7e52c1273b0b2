"""Progress of long work: a bar on a terminal, a line now and then in a log, or events for a parent.

A step that runs as a child process has no terminal. Where ``MISTUDIO_EVENTS`` names a file, each
report is appended to it as one JSON line, and the parent (``mistudio run``) draws the bars.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

EVENTS_ENV = "MISTUDIO_EVENTS"
_EVENT_EVERY_S = 0.2
_LINE_EVERY_S = 10.0
_SHOWN_FROM_BYTES = 1 << 28


class Bar(Protocol):
    """One piece of work of known or unknown length."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Report that ``amount`` more is done; ``note`` shows the figures of the moment."""
        ...


@contextmanager
def progress(what: str, total: float | None, unit: str = "") -> Iterator[Bar]:
    """Show the progress of ``what``; ``total`` is in ``unit`` (None where it is not known)."""
    events = os.environ.get(EVENTS_ENV)
    if events:
        event_bar = _EventBar(Path(events), what, total, unit)
        yield event_bar
        event_bar.finish()
    elif sys.stderr.isatty():
        with new_display() as display:
            yield _RichBar(display, display.add_task(what, total=total, unit=unit, note=""))
    else:
        line_bar = _LineBar(what, total, unit)
        yield line_bar
        line_bar.finish()


def byte_progress(what: str, num_bytes: int) -> AbstractContextManager[Bar]:
    """Show the progress of going through ``num_bytes``; nothing is shown of what takes no time."""
    return progress(what, num_bytes, "bytes") if num_bytes >= _SHOWN_FROM_BYTES else nullcontext(_SilentBar())


def new_display() -> Progress:
    """The one look of all progress bars; tasks carry the fields ``unit`` and ``note``."""
    return Progress(
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=Console(stderr=True),
    )


def emit_event(**event: object) -> None:
    """Append one event for the parent process, if there is one that listens."""
    path = os.environ.get(EVENTS_ENV)
    if path:
        _append(Path(path), event)


class _SilentBar:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Show nothing."""


class _RichBar:
    def __init__(self, display: Progress, task: TaskID) -> None:
        self._display, self._task = display, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        if note:
            self._display.update(self._task, advance=amount, note=note)
        else:
            self._display.update(self._task, advance=amount)


class _ReportingBar:
    """Counts, and reports at most once in ``every_s`` seconds."""

    every_s = _LINE_EVERY_S

    def __init__(self, what: str, total: float | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.note = 0.0, ""
        self._last = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if now - self._last >= self.every_s:
            self._last = now
            self.report()

    def report(self) -> None:
        raise AssertionError

    def finish(self) -> None:
        self.report()


class _LineBar(_ReportingBar):
    def report(self) -> None:
        of_total = f" of {self.total:,.0f}" if self.total is not None else ""
        logger.info("%s: %s%s %s %s", self.what, f"{self.done:,.0f}", of_total, self.unit, self.note)


class _EventBar(_ReportingBar):
    every_s = _EVENT_EVERY_S

    def __init__(self, path: Path, what: str, total: float | None, unit: str) -> None:
        super().__init__(what, total, unit)
        self._path = path
        self.report()

    def report(self, *, finished: bool = False) -> None:
        event = {"event": "progress", "what": self.what, "done": self.done, "total": self.total}
        _append(self._path, {**event, "unit": self.unit, "note": self.note, "finished": finished})

    def finish(self) -> None:
        self.report(finished=True)


def _append(path: Path, event: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"pid": os.getpid(), **event}) + "\n")
