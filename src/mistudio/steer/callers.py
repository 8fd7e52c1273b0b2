"""Who asks, as the log of interventions has it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        request: id of the request.
        key: name of the key that it came with; None: without one.
    """

    request: str
    key: str | None = None
