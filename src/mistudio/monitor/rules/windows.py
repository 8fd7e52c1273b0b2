"""The last exchanges of a rule, counted: how many there were, and in how many of them it was met.

Time is that of the traffic. What comes late is counted where it belongs, as far back as the window goes.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from mistudio.monitor.rules.rules import RateRule

PARTS = 60  # of a window of seconds: it moves on by a part at a time


class Window(Protocol):
    """Counts exchanges, and those that a rule was met in."""

    def add(self, time: float, *, is_hit: bool) -> None:
        """Count an exchange."""

    def now_hit(self) -> None:
        """The last exchange that was counted is one that the rule was met in, after all."""

    def counts(self) -> tuple[int, int]:
        """Exchanges, and those that the rule was met in."""

    def state(self) -> dict[str, Any]:
        """What has to be kept, for JSON."""


class LastExchanges:
    """The last so many exchanges. It keeps the numbers of those that count, which are few."""

    def __init__(self, size: int, state: Mapping[str, Any] | None = None) -> None:
        self._size = size
        self._seen = 0 if state is None else int(state["seen"])
        self._hits: deque[int] = deque(map(int, state["hits"]) if state else ())

    def add(self, time: float, *, is_hit: bool) -> None:
        """Count an exchange."""
        self._seen += 1
        if is_hit:
            self._hits.append(self._seen)
        while self._hits and self._hits[0] <= self._seen - self._size:
            self._hits.popleft()

    def now_hit(self) -> None:
        """The last exchange counts."""
        if not self._hits or self._hits[-1] != self._seen:
            self._hits.append(self._seen)

    def counts(self) -> tuple[int, int]:
        """Exchanges, and those that the rule was met in."""
        return min(self._seen, self._size), len(self._hits)

    def state(self) -> dict[str, Any]:
        """What has to be kept."""
        return {"seen": self._seen, "hits": list(self._hits)}


class LastSeconds:
    """The exchanges of the last so many seconds, in parts of a sixtieth."""

    def __init__(self, seconds: float, state: Mapping[str, Any] | None = None) -> None:
        self._part_s = seconds / PARTS
        self._parts: dict[int, list[int]] = {int(n): [int(a), int(b)] for n, a, b in (state["parts"] if state else ())}
        self._newest = max(self._parts, default=-(1 << 62))
        self._last: int | None = None

    def add(self, time: float, *, is_hit: bool) -> None:
        """Count an exchange; not one from before the window."""
        number = math.floor(time / self._part_s)
        if number > self._newest:
            self._newest = number
            for old in [each for each in self._parts if each <= number - PARTS]:
                del self._parts[old]
        self._last = number if number > self._newest - PARTS else None
        if self._last is not None:
            part = self._parts.setdefault(number, [0, 0])
            part[0] += 1
            part[1] += is_hit

    def now_hit(self) -> None:
        """The last exchange counts."""
        if self._last in self._parts:
            self._parts[self._last][1] += 1

    def counts(self) -> tuple[int, int]:
        """Exchanges, and those that the rule was met in."""
        parts = self._parts.values()
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def state(self) -> dict[str, Any]:
        """What has to be kept."""
        return {"parts": [[number, *part] for number, part in sorted(self._parts.items())]}


def window_of(rule: RateRule, state: Mapping[str, Any] | None = None) -> Window:
    """The window that a rule looks at, empty or as it was kept."""
    if rule.last_exchanges is not None:
        return LastExchanges(rule.last_exchanges, state)
    return LastSeconds(float(rule.last_s or 0), state)
