"""Ending on request: where a process is told to end, it closes what it has open, and then ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(SystemExit):
    """The process was told to end; it is no error of the work.

    Args:
        number: the signal that told so.
    """

    exit_code = 128 + signal.SIGTERM

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)
        self.signal_name = signal.Signals(number).name


@contextmanager
def stoppable(*, interrupts: bool = False) -> Iterator[None]:
    """Until the end SIGTERM raises :class:`Stopped` in the main thread: once, for what is open is closed then.

    Elsewhere than in the main thread, and where somebody else has taken the signal, nothing changes.

    Args:
        interrupts: SIGINT, which Ctrl-C sends, does the same. For programs: to a library's caller it is
            KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL}
    if interrupts:
        usual[signal.SIGINT] = signal.default_int_handler
    taken = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is _stop:
                signal.signal(number, usual[number])


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(each) is _stop:
            signal.signal(each, _nothing)  # SIG_IGN would be passed on to child processes
    raise Stopped(number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    return
