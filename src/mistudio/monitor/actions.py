"""What is done with an alert: told in the log, counted, sent, or a generation ended; never in the way of the worker."""

from typing import Any, Protocol

from mistudio.monitor.records import Alert
from mistudio.monitor.rules import Rules


class Stopper(Protocol):
    """Ends generations of this process."""

    @property
    def models(self) -> frozenset[str]:
        """Names of the models whose generations it can end."""

    def stop(self, exchange: str) -> bool:
        """End the generation of a request, from any thread, without waiting; whether there was one."""


class Actions:
    """Does what rules say, on a thread of its own where something is sent.

    Args:
        rules: name the actions.
        stopper: ends generations; None: none is generated here.

    Raises:
        ConfigError: an action cannot be done here: a stop of what is generated elsewhere, an address that is refused.
    """

    def __init__(self, rules: Rules, stopper: Stopper | None = None) -> None:
        raise NotImplementedError

    def act(self, alert: Alert) -> None:
        """Do what the alert's rule says; what has to wait is queued, and dropped with a count where the queue is full.

        An alert of no rule (of drift) is logged and counted.
        """
        raise NotImplementedError

    def replace(self, rules: Rules) -> None:
        """Go on with other rules; what waits for an address that is still there stays.

        Raises:
            ConfigError: as for new ones; nothing is changed then.
        """
        raise NotImplementedError

    def counts(self) -> dict[str, dict[str, int]]:
        """By action: alerts that were done, failed, dropped, refused, and that wait."""
        raise NotImplementedError

    def status(self) -> list[dict[str, Any]]:
        """Of each action what it says and how it fares, for people; without what may be secret."""
        raise NotImplementedError

    def close(self, wait_s: float = 5.0) -> None:
        """Send what waits for so many seconds, then stop."""
        raise NotImplementedError
