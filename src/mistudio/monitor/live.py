"""The live stream: what is read of tokens and samples, and alerts, to all who follow.

Who tells (the monitor's worker, a thread that generates) never waits for who follows: each follower has a queue of
bounded length, and what it has no room for is counted and told in the stream itself.

Shape legend: W watched columns, V those that a follower wants.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from mistudio.errors import Busy
from mistudio.monitor.live_events import Kind, LiveEvent, origin_body, short
from mistudio.monitor.records import Origin
from mistudio.settings import Settings

_RETRY_S = 5.0


class Wanted(Settings):
    """What a follower wants to be told; what is not given is no condition."""

    kinds: tuple[Kind, ...] = Field((), max_length=8, description="kinds of events; empty: all")
    watched: tuple[str, ...] = Field((), max_length=256, description="names of watched columns; empty: all")
    features: tuple[str, ...] = Field((), max_length=256, description="features as uri#number, of the watched ones")
    model: str | None = Field(None, max_length=200, description="of a watched model alone")
    endpoint: str | None = Field(None, max_length=200, description="of an endpoint alone, such as canary")
    tenant: str | None = Field(None, max_length=200, description="of a tenant alone")
    request: str | None = Field(None, max_length=200, description="of one request alone")
    min_value: float | None = Field(None, description="values from here on; events without any are left out")
    tokens: bool = Field(True, description="tell the values of samples by token, not only the largest")

    def takes(self, origin: Origin, request: str) -> bool:
        """Whether something of this origin is wanted."""
        return (
            self.model in (None, origin.model)
            and self.endpoint in (None, origin.endpoint)
            and self.tenant in (None, origin.tenant)
            and self.request in (None, request)
        )


class Named(Protocol):
    """A watched column, as followers may name it."""

    @property
    def name(self) -> str:
        """As the watch list has it."""

    @property
    def feature(self) -> str:
        """What it is: ``uri#number`` of a feature, or the URI of a direction."""


class Follower:
    """One who follows; made by :meth:`Live.follow`.

    Args:
        wanted: what it wants to be told.
        columns: the watched ones.
        num_events: that wait for it.
        wake: is called, from any thread, when there is something to take again.
    """

    def __init__(self, wanted: Wanted, columns: Sequence[Named], num_events: int, wake: Callable[[], None]) -> None:
        self.wanted, self._columns, self._wake = wanted, columns, wake
        named = [
            number
            for number, column in enumerate(columns)
            if (not wanted.watched and not wanted.features)
            or column.name in wanted.watched
            or column.feature in wanted.features
        ]
        self._column_V = np.array(named, dtype=np.int64)
        self._waiting: deque[LiveEvent] = deque()
        self._num_events, self._num_dropped = num_events, 0
        self._lock = threading.Lock()

    def put(self, event: LiveEvent) -> int:
        """Let an event wait, if it is wanted; how many were dropped for it."""
        if not self._takes(event):
            return 0
        with self._lock:
            was_empty, is_full = not self._waiting, len(self._waiting) >= self._num_events
            if is_full:
                self._num_dropped += 1
            else:
                self._waiting.append(event)
        if was_empty:
            self._wake()
        return int(is_full)

    def take(self) -> list[dict[str, Any]]:
        """All that waits, as JSON has it; where some had no room, behind it how many."""
        with self._lock:
            waiting, dropped = list(self._waiting), self._num_dropped
            self._waiting.clear()
            self._num_dropped = 0
        told = [self.told(event) for event in waiting]
        return [*told, {"kind": "dropped", "count": dropped}] if dropped else told

    def told(self, event: LiveEvent) -> dict[str, Any]:
        """An event as this follower is told of it."""
        body: dict[str, Any] = {"kind": event.kind}
        if event.id is not None:
            body["id"] = event.id
        if event.request:
            body["request"] = event.request
        body |= {"origin": origin_body(event.origin), **event.body}
        if event.max_W is not None:
            body["watched"] = self._values(event)
        return body

    def _takes(self, event: LiveEvent) -> bool:
        wanted = self.wanted
        if (wanted.kinds and event.kind not in wanted.kinds) or not wanted.takes(event.origin, event.request):
            return False
        if event.max_W is None:
            return True
        if not len(self._column_V):
            return not wanted.watched and not wanted.features
        return wanted.min_value is None or bool((event.max_W[self._column_V] >= wanted.min_value).any())

    def _values(self, event: LiveEvent) -> dict[str, Any]:
        assert event.max_W is not None  # noqa: S101 - asked for by who knows
        least = self.wanted.min_value
        found: dict[str, Any] = {}
        for column in self._column_V.tolist():
            largest = float(event.max_W[column])
            if math.isnan(largest) or (least is not None and largest < least):
                continue
            name = self._columns[column].name
            found[name] = short(largest) if event.kind == "token" else self._pooled(event, column, largest)
        return found

    def _pooled(self, event: LiveEvent, column: int, largest: float) -> dict[str, Any]:
        found: dict[str, Any] = {"max": short(largest)}
        if event.place_W is not None:
            found["token"] = int(event.place_W[column])
        if event.top_W is not None:
            found["top"] = short(float(event.top_W[column]))
        if event.value_TW is not None and self.wanted.tokens:
            found["values"] = [short(value) for value in event.value_TW[:, column].tolist()]
        return found


class Live:
    """All who follow.

    Args:
        columns: the watched ones.
        num_followers: at once.
        num_events: that wait for each.
    """

    def __init__(self, columns: Sequence[Named], num_followers: int, num_events: int) -> None:
        self.columns = tuple(columns)
        self._num_followers, self._num_events = num_followers, num_events
        self._followers: tuple[Follower, ...] = ()  # replaced as a whole: who tells reads it without a lock
        self._lock = threading.Lock()
        self.num_dropped = 0

    @property
    def num_followers(self) -> int:
        """How many follow."""
        return len(self._followers)

    @property
    def wants_tokens(self) -> bool:
        """Whether anybody wants values by token of samples."""
        return any(
            each.wanted.tokens and (not each.wanted.kinds or "sample" in each.wanted.kinds) for each in self._followers
        )

    def follow(self, wanted: Wanted, wake: Callable[[], None]) -> Follower:
        """Begin to follow; to be ended by :meth:`leave`.

        Raises:
            Busy: as many follow as may.
        """
        with self._lock:
            if len(self._followers) >= self._num_followers:
                message = f"{self._num_followers} clients follow the live stream, as many as may: try again later."
                raise Busy(message, _RETRY_S)
            follower = Follower(wanted, self.columns, self._num_events, wake)
            self._followers = (*self._followers, follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Follow no more."""
        with self._lock:
            self._followers = tuple(each for each in self._followers if each is not follower)

    def tell(self, event: LiveEvent) -> None:
        """Tell all who want it; from any thread."""
        for follower in self._followers:
            self.num_dropped += follower.put(event)
