"""Progress of long work: a bar on a terminal, a line now and then in a log, or events for a parent.

A step that runs as a child process has no terminal. Where somebody follows its events (``mistudio.events``), each
report is one of them, and whoever follows (``mistudio run``) draws the bars.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mistudio import events
from mistudio.terminal import console, plain

if TYPE_CHECKING:  # the steps of a pipeline draw nothing
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

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
    path = events.events_path()
    if path:
        event_bar = _EventBar(path, what, total, unit)
        yield event_bar
        event_bar.finish()
    elif sys.stderr.isatty():
        with new_display() as display:
            yield _RichBar(display, display.add_task(plain(what), total=total, unit=unit, note=""))
    else:
        line_bar = _LineBar(what, total, unit)
        yield line_bar
        line_bar.finish()


def say(text: str, level: int = logging.INFO) -> None:
    """A line for people: an event where somebody follows the run, else a line of the log."""
    if events.events_path():
        events.emit(events.Message(text=text))
    else:
        logger.log(level, "%s", text)


def byte_progress(what: str, num_bytes: int) -> AbstractContextManager[Bar]:
    """Show the progress of going through ``num_bytes``; nothing is shown of what takes no time."""
    return progress(what, num_bytes, "bytes") if num_bytes >= _SHOWN_FROM_BYTES else nullcontext(_SilentBar())


def new_display() -> "Progress":
    """The one look of all progress bars; tasks carry the fields ``unit`` and ``note``."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console(stderr=True),
    )


class _SilentBar:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Show nothing."""


class _RichBar:
    def __init__(self, display: "Progress", task: "TaskID") -> None:
        self._display, self._task = display, task

    def advance(self, amount: float = 1, note: str = "") -> None:
        if note:
            self._display.update(self._task, advance=amount, note=plain(note))
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
    def __init__(self, what: str, total: float | None, unit: str) -> None:
        super().__init__(what, total, unit)
        self._reported = ""

    def report(self) -> None:
        of_total = f" of {self.total:,.0f}" if self.total is not None else ""
        parts = (f"{self.what}: {self.done:,.0f}{of_total}", self.unit, self.note)
        line = " ".join(part for part in parts if part)
        if line != self._reported:  # the last advance may have told all that there is at the end
            self._reported = line
            logger.info("%s", line)


class _EventBar(_ReportingBar):
    every_s = _EVENT_EVERY_S

    def __init__(self, path: Path, what: str, total: float | None, unit: str) -> None:
        super().__init__(what, total, unit)
        self._path = path
        self.report()

    def report(self, *, finished: bool = False) -> None:
        what, done, total, unit = self.what, self.done, self.total, self.unit
        event = events.Progress(what=what, done=done, total=total, unit=unit, note=self.note, finished=finished)
        events.append(self._path, event)

    def finish(self) -> None:
        self.report(finished=True)
