"""The processes of a run: they share a process group, and the file of events in their environment names the run."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from mistudio.events import EVENTS_ENV

# Argument of a run's first process: it ends with its standard input, which its starter holds open.
ATTACHED = "--attached"
_POLL_S = 0.05


def members(group: int, events: Path) -> Iterator[psutil.Process]:
    """The processes of a run that are still there, without this one.

    A group's number can be another's after the run is gone, so each is asked which run it is of.
    """
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or os.getpgid(process.pid) != group:
                continue
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(EVENTS_ENV) == str(events):
                yield process


def end_members(group: int, events: Path, grace_s: float) -> None:
    """Ask each to end, once; whatever is there after the grace period, in seconds, is killed."""
    asked: set[psutil.Process] = set()
    deadline = time.monotonic() + grace_s
    while left := list(members(group, events)):
        late = time.monotonic() > deadline
        for process in left:
            if late or process not in asked:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        asked.update(left)
        time.sleep(_POLL_S)
