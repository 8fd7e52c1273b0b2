"""What to say of work that can be ended at any time, and is gone on with."""

from collections.abc import Iterator
from contextlib import contextmanager

from mistudio.stopping import Stopped

AGAIN = "Run the same command again: it goes on where it stopped."
KEPT = f"What it has done until now is kept. {AGAIN}"


@contextmanager
def goes_on() -> Iterator[None]:
    """Where what is done here is told to end, say that it is kept."""
    try:
        yield
    except Stopped as stopped:
        stopped.add_note(KEPT)
        raise
