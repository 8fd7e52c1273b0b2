"""Live view of a pipeline run: what its events say, as bars on a terminal or lines in a log."""

import sys
from types import TracebackType
from typing import Self

from rich.progress import TaskID

from mistudio.events import Event, Finished, Message, Progress
from mistudio.progress import new_display
from mistudio.runs.outcome import StepStates
from mistudio.terminal import console, plain

_LINE_STEP = 0.25


class RunView:
    """Draws events as they come, and keeps what each step ended with."""

    def __init__(self) -> None:
        self.steps = StepStates()
        self._view: _BarView | _LineView = _BarView() if sys.stderr.isatty() else _LineView()

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.stop()

    def take(self, event: Event) -> None:
        """Take in what happened next."""
        self.steps.take(event)
        self._view.show(event)


class _BarView:
    """Bars on a terminal: one for each piece of work, a line for each finished step."""

    def __init__(self) -> None:
        self._display = new_display()
        self._tasks: dict[tuple[int, str], TaskID] = {}

    def start(self) -> None:
        self._display.start()

    def stop(self) -> None:
        self._display.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, Progress):
            key = (event.pid, event.what)
            if key not in self._tasks:
                self._tasks[key] = self._display.add_task(plain(_what(event)), unit=event.unit, note="")
            total = event.done if event.finished else event.total
            self._display.update(self._tasks[key], completed=event.done, total=total, note=plain(event.note))
        elif isinstance(event, Finished):
            for key in [key for key in self._tasks if key[0] == event.pid]:
                self._display.remove_task(self._tasks.pop(key))
            self._display.console.print(_finished_line(event))
        elif isinstance(event, Message):
            self._display.console.print(event.text)


class _LineView:
    """Lines in a log: a step's end, and its progress by quarters."""

    def __init__(self) -> None:
        self._console = console(stderr=True, soft_wrap=True)
        self._shown: dict[tuple[int, str], float] = {}

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    def show(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._console.print(_finished_line(event))
        elif isinstance(event, Message):
            self._console.print(event.text)
        elif isinstance(event, Progress) and event.total:
            key, done = (event.pid, event.what), event.done / event.total
            if 0 < done < 1 and done >= self._shown.get(key, 0) + _LINE_STEP:
                self._shown[key] = done
                self._console.print(f"  {_what(event)}: {done:.0%}  {event.note}".rstrip())


def _finished_line(event: Finished) -> str:
    how = "found" if event.found else "made"
    about = f"   ({event.about})" if event.about else ""
    return f"{event.step:<9} {how:<6} {event.seconds:>7.1f} s   {event.uri}{about}"


def _what(event: Progress) -> str:
    """What is done, and by which of the steps of one name, which may run side by side."""
    return f"{event.what} ({event.about})" if event.about else event.what
