"""What several predictors of one process use together, made once: a loaded model with its autoencoders."""

from collections.abc import Callable
from threading import Lock
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What is let go of in the end."""

    def close(self) -> None:
        """Let go of it."""


Made = TypeVar("Made", bound=Closable)


class Shared(Generic[Made]):
    """Made when the first predictor takes it, and closed when the last has given it back.

    Args:
        make: makes it; whoever comes meanwhile waits.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: Made | None = None
        self._num_holders = 0
        self._lock = Lock()

    def take(self) -> Made:
        """The one that all share; to be given back once.

        Raises:
            MistudioError: it cannot be made; the next who takes it tries again.
        """
        with self._lock:
            if self._made is None:
                self._made = self._make()
            self._num_holders += 1
            return self._made

    def give_back(self) -> None:
        """Let go of what was taken."""
        with self._lock:
            self._num_holders -= 1
            if self._num_holders == 0 and self._made is not None:
                self._made.close()
                self._made = None
