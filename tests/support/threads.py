"""Which threads have come since: those of other tests may end meanwhile, and count neither way."""

import threading
from collections.abc import Callable


def threads_since() -> Callable[[], int]:
    """A function that says how many threads live that did not when this one was called."""
    before = set(threading.enumerate())
    return lambda: len(set(threading.enumerate()) - before)
