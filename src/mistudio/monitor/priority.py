"""Who goes first where cores are few: those who answer a sender, before the thread that reads what was sent."""

import os
import sys
import threading
from contextlib import suppress

_NICENESS = 10


def go_last() -> None:
    """Let other threads of this machine go before the calling one, where the kernel knows threads by themselves.

    On two busy cores it halves the p99 of the sink's answers (``python -m benchmarks.monitor_sink``). A thread that is
    alone with a core loses nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
