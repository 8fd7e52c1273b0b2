"""The way in for events: it needs no model, so that what comes while one is loaded waits and is not lost."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from mistudio.monitor.stats import MonitorStats
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import EventsRead, read_events
from mistudio.monitor.traffic.intake import Intake

_OFFERED = ("offered", "too_large", "refused")
_NOTED = ("ignored", "malformed", "overrun")


class Inlet:
    """Takes what loggers post; for any thread.

    Args:
        settings: how bodies are read, and bounds of the queue.
        clock: seconds since 1970.

    Attributes:
        intake: the queue that it fills.
    """

    def __init__(self, settings: TrafficSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self.intake = Intake(settings)
        self._noted: Counter[str] = Counter()

    def take(self, headers: Mapping[str, str], body: bytes) -> EventsRead:
        """Take what a logger posts; returns at once, whatever the queue does.

        Args:
            headers: by name in small letters.
            body: all of it.

        Raises:
            EventRefused: it holds no event, or one that cannot be read.
        """
        found = read_events(headers, body, self._settings, self._clock())
        for event in found.events:
            self.intake.offer(event)
        self._noted.update(ignored=found.num_ignored, malformed=len(found.refused))
        return found

    def note(self, outcome: str) -> None:
        """Count what did not get as far as an event: ``malformed``, or ``overrun`` where it could not be looked at."""
        self._noted[outcome] += 1

    def stats(self) -> MonitorStats:
        """What came, and what waits."""
        depth, counts = self.intake.depth(), self.intake.counts()
        events = {name: counts.pop(name, 0) for name in _OFFERED}
        return MonitorStats(
            events={**events, **{name: self._noted[name] for name in _NOTED}},
            exchanges=counts,
            queue_events=depth.queued,
            queue_bytes=depth.queued_bytes,
            pending=depth.waiting,
        )
