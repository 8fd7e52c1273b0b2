"""Live view of a pipeline run: follows the events that the steps append to a file."""

import json
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import TaskID

from mistudio.progress import new_display

_POLL_S = 0.2
_LINE_STEP = 0.25

Event = dict[str, Any]


def seconds_by_step(finished: list[Event]) -> dict[str, float]:
    """Seconds that each step took, all its runs together."""
    seconds: dict[str, float] = {}
    for event in finished:
        seconds[event["step"]] = round(seconds.get(event["step"], 0) + event["seconds"], 3)
    return seconds


class RunView:
    """Reads events as they come, draws them, and keeps what each step ended with."""

    def __init__(self, events_path: Path) -> None:
        self.finished: list[Event] = []
        self.failures: list[Event] = []
        self.running: dict[int, Event] = {}  # by process
        self._path = events_path
        self._offset = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._view: _BarView | _LineView = _BarView() if sys.stderr.isatty() else _LineView()

    def __enter__(self) -> Self:
        self._path.touch()
        self._view.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.read()
        self._view.stop()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_S):
            self.read()

    def read(self) -> None:
        """Take in what was appended since."""
        with self._path.open("rb") as handle:
            handle.seek(self._offset)
            lines = handle.readlines()
        for line in lines:
            if not line.endswith(b"\n"):
                return  # still being written
            self._offset += len(line)
            self._take(json.loads(line))

    def _take(self, event: Event) -> None:
        if event["event"] == "step_started":
            self.running[event["pid"]] = event
        elif event["event"] in ("step_finished", "step_failed"):
            self.running.pop(event["pid"], None)
            (self.finished if event["event"] == "step_finished" else self.failures).append(event)
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
        if event["event"] == "progress":
            key = (event["pid"], event["what"])
            if key not in self._tasks:
                self._tasks[key] = self._display.add_task(event["what"], unit=event["unit"], note="")
            total = event["done"] if event["finished"] else event["total"]
            self._display.update(self._tasks[key], completed=event["done"], total=total, note=event["note"])
        elif event["event"] == "step_finished":
            for key in [key for key in self._tasks if key[0] == event["pid"]]:
                self._display.remove_task(self._tasks.pop(key))
            self._display.console.print(_finished_line(event), highlight=False)
        elif event["event"] == "message":
            self._display.console.print(event["text"], highlight=False)


class _LineView:
    """Lines in a log: a step's end, and its progress by quarters."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._shown: dict[tuple[int, str], float] = {}

    def start(self) -> None:
        return

    def stop(self) -> None:
        return

    def show(self, event: Event) -> None:
        if event["event"] == "step_finished":
            self._console.print(_finished_line(event), highlight=False)
        elif event["event"] == "message":
            self._console.print(event["text"], highlight=False)
        elif event["event"] == "progress" and event["total"]:
            key, done = (event["pid"], event["what"]), event["done"] / event["total"]
            if 0 < done < 1 and done >= self._shown.get(key, 0) + _LINE_STEP:
                self._shown[key] = done
                self._console.print(f"  {event['what']}: {done:.0%}  {event['note']}", highlight=False)


def _finished_line(event: Event) -> str:
    how = "found" if event["found"] else "made"
    return f"{event['step']:<9} {how:<6} {event['seconds']:>7.1f} s   {event['uri']}"
