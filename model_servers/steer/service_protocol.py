"""What the routes need of the service that generates."""

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import BaseModel

from mistudio.steer.requests import Event, GenerationRequest


class Busy(Exception):
    """No further request is taken at the moment."""

    retry_after_s: float = 1.0


class Draining(Exception):
    """No further request is taken."""


class Ticket(Protocol):
    """A request that was submitted."""

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class TextService(Protocol):
    """Generates, on a thread of its own."""

    name: str

    def describe(self) -> BaseModel:
        """What is served."""

    def prepare(self, request: GenerationRequest) -> Any:
        """Check and tokenise."""

    def submit(self, prepared: Any, on_event: Callable[[Event], None]) -> Ticket:
        """Queue it."""

    def drain(self, timeout_s: float) -> None:
        """Finish what is there."""

    def close(self) -> None:
        """End."""

    def stats(self) -> Any:
        """Numbers of what it is at."""
