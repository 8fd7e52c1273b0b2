"""Where traffic comes in: taken within microseconds, joined, and held within bounds until the model can read it.

A slow sink makes KServe's agent grow inside the *watched* pod, so nothing here waits: an event is joined with its other
half at once, and only whole exchanges stand in the queue. So what is dropped is dropped as a whole. Were events queued
one by one, dropping a response would waste its request too.

When the queue is full the *oldest* exchange is dropped. Either end would be as fair a sample of the traffic; but with
the newest dropped, all that is still read would be as old as a full queue takes to be read, and alerts as late.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import LoggedEvent
from mistudio.monitor.traffic.joining import JOIN_OUTCOMES, Joined, Joiner

INTAKE_OUTCOMES = (
    *JOIN_OUTCOMES,
    "offered",  # events
    "too_large",  # events above max_event_bytes, dropped
    "refused",  # events that came after the end
    "dropped",  # exchanges for which there was no room
    "taken",  # exchanges that were handed on
)


class Depth(NamedTuple):
    """How much is held now."""

    waiting: int  # halves of exchanges
    waiting_bytes: int
    queued: int  # exchanges
    queued_bytes: int


class Intake:
    """The queue between those who log traffic and the one who reads it; for any number of threads.

    Args:
        settings: bounds.
        clock: seconds; does not go back.
    """

    def __init__(self, settings: TrafficSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._joiner = Joiner(settings)
        self._queue: deque[Joined] = deque()
        self._queued_bytes = 0
        self._counts = {"offered": 0, "too_large": 0, "refused": 0, "dropped": 0, "taken": 0}
        self._changed = threading.Condition(threading.Lock())
        self._is_closed = False

    def offer(self, event: LoggedEvent) -> bool:
        """Take an event; returns at once, whatever the queue does.

        Returns:
            Whether it was taken: not where it is too large, or after the end. To make room, another exchange may have
            been dropped; both is counted.
        """
        with self._changed:
            self._counts["offered"] += 1
            if self._is_closed or event.num_bytes > self._settings.max_event_bytes + _SLACK_BYTES:
                self._counts["refused" if self._is_closed else "too_large"] += 1
                return False
            self._put(self._joiner.add(event, self._clock()))
            return True

    def take(self, timeout_s: float) -> Joined | None:
        """The next exchange; None where none came in time."""
        return next(iter(self.take_many(1, timeout_s)), None)

    def take_many(self, most: int, timeout_s: float) -> Sequence[Joined]:
        """Up to so many exchanges: those that are there, or the first that comes; none where none came in time."""
        with self._changed:
            until = self._clock() + timeout_s
            while True:
                self._put(self._joiner.expire(self._clock(), _EXPIRED_AT_ONCE))
                remaining = until - self._clock()
                if self._queue or self._is_closed or remaining <= 0:
                    break
                self._changed.wait(min(remaining, _LOOK_AGAIN_S))
            return [self._next() for _ in range(min(most, len(self._queue)))]

    def close(self, *, let_go: bool = True) -> None:
        """Take nothing more; what is queued may still be taken.

        Args:
            let_go: queue what still waits for its other half, too; where not, it is lost.
        """
        with self._changed:
            if not self._is_closed and let_go:
                self._put(self._joiner.flush())
            self._is_closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._is_closed

    def counts(self) -> dict[str, int]:
        """What became of all that came, by :data:`INTAKE_OUTCOMES`."""
        with self._changed:
            return {name: int(count) for name, count in self._joiner.counts.items()} | self._counts

    def depth(self) -> Depth:
        """How much is held now."""
        with self._changed:
            joiner = self._joiner
            return Depth(joiner.num_waiting, joiner.waiting_bytes, len(self._queue), self._queued_bytes)

    def _put(self, ready: Sequence[Joined]) -> None:
        for each in ready:
            self._queue.append(each)
            self._queued_bytes += each.num_bytes
        settings = self._settings
        while len(self._queue) > settings.max_queue or self._queued_bytes > settings.max_queue_bytes:
            self._pop()
            self._counts["dropped"] += 1
        if ready:
            self._changed.notify()

    def _next(self) -> Joined:
        self._counts["taken"] += 1
        return self._pop()

    def _pop(self) -> Joined:
        oldest = self._queue.popleft()
        self._queued_bytes -= oldest.num_bytes
        return oldest


_LOOK_AGAIN_S = 0.5  # what waits too long is let go about then
_EXPIRED_AT_ONCE = 256  # others wait for the lock meanwhile
_SLACK_BYTES = 1 << 16  # of an event beside its body
