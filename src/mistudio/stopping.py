"""Ending on request: where a process is told to end, it closes what it has open, and then ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """The process was told to end; it is no error of the work."""

    exit_code = 128 + signal.SIGTERM

    def __init__(self) -> None:
        super().__init__(self.exit_code)


@contextmanager
def stoppable() -> Iterator[None]:
    """Until the end SIGTERM raises :class:`Stopped` in the main thread: once, for what is open is closed then.

    Elsewhere than in the main thread, and where somebody else has taken the signal, nothing changes.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _nothing)  # SIG_IGN would be passed on to child processes
    raise Stopped


def _nothing(_number: int, _frame: FrameType | None) -> None:
    return
