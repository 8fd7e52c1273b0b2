"""Halves of exchanges put together: a request and its response come as two events, in any order, or not at all.

Events are joined by id, source and service. KServe's agent sends each once; its id is the caller's ``Ce-Id`` header
where there is one, so a client may use one id for everything. So an event counts as doubled only where its body is the
same too; another body under a known id is a new exchange, and what waited under it goes on alone.

What waits too long goes on alone, and so does the oldest where too much waits. A request alone is worth watching: it is
what a trigger is in. So is a response alone: it is what a trigger did. Both are marked as not whole. Time comes from
outside, in seconds of any clock that does not go back.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import LoggedEvent

JoinOutcome = Literal["joined", "request_alone", "response_alone", "doubled", "reused", "late", "pushed_out"]
JOIN_OUTCOMES: tuple[JoinOutcome, ...] = (
    "joined",  # exchanges with both halves
    "request_alone",  # let go without a response
    "response_alone",  # let go without a request
    "doubled",  # events that came before, dropped
    "reused",  # halves whose id came again with another body before they were joined; also counted as alone
    "late",  # halves that came when the other had been let go; also counted as alone
    "pushed_out",  # halves that were let go because too much waited; also counted as alone
)
_EXPIRED_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Joined:
    """A request, its response, or both.

    Attributes:
        request: None: it never came.
        response: None: it never came.
    """

    request: LoggedEvent | None
    response: LoggedEvent | None

    @property
    def first(self) -> LoggedEvent:
        """The half that says where it comes from: the request, where there is one."""
        first = self.request or self.response
        assert first is not None  # noqa: S101 -- one of the two is always there
        return first

    @property
    def events(self) -> tuple[LoggedEvent, ...]:
        """The halves that came."""
        return tuple(each for each in (self.request, self.response) if each is not None)

    @property
    def num_bytes(self) -> int:
        """Memory that it takes, about."""
        return sum(each.num_bytes for each in self.events)


class _Waiting(NamedTuple):
    event: LoggedEvent
    since: float


class Joiner:
    """Puts halves together; not to be used by several threads at once.

    On average each call takes the same time, however much waits.

    Attributes:
        counts: what became of events, by :data:`JOIN_OUTCOMES`.
        waiting_bytes: memory of the halves that wait, about.
    """

    def __init__(self, settings: TrafficSettings) -> None:
        self._settings = settings
        self._waiting: OrderedDict[tuple[str, ...], _Waiting] = OrderedDict()  # the oldest first
        self._seen = _Recent(2 * settings.recent_ids)
        self._let_go = _Recent(settings.recent_ids)
        self.counts: Counter[JoinOutcome] = Counter(dict.fromkeys(JOIN_OUTCOMES, 0))
        self.waiting_bytes = 0

    @property
    def num_waiting(self) -> int:
        """Halves that wait for the other."""
        return len(self._waiting)

    def add(self, event: LoggedEvent, now: float) -> list[Joined]:
        """Take an event; what is ready by that, which may be nothing, or others than its own."""
        ready = self.expire(now, _EXPIRED_AT_ONCE)
        if not self._seen.add(hash((event.key, event.kind, event.body))):
            self.counts["doubled"] += 1
            return ready
        other = self._waiting.get(event.key)
        if other is not None and other.event.kind != event.kind:
            self._take(event.key)
            self.counts["joined"] += 1
            pair = (event, other.event) if event.kind == "request" else (other.event, event)
            return [*ready, Joined(*pair)]
        if other is not None:
            ready.append(self._alone(event.key, "reused"))
        if self._settings.logs != "both":
            return [*ready, self._counted(event)]
        if self._let_go.drop(hash((event.key, event.kind))):
            self.counts["late"] += 1
            return [*ready, self._counted(event)]
        self._waiting[event.key] = _Waiting(event, now)
        self.waiting_bytes += event.num_bytes
        return [*ready, *self._pushed_out()]

    def expire(self, now: float, most: int | None = None) -> list[Joined]:
        """Halves that have waited too long, the oldest first.

        Args:
            now: seconds.
            most: how many to let go at most; None: all.
        """
        ready: list[Joined] = []
        while self._waiting and (most is None or len(ready) < most):
            key, oldest = next(iter(self._waiting.items()))
            if now - oldest.since < self._settings.join_timeout_s:
                break
            ready.append(self._alone(key))
        return ready

    def flush(self) -> list[Joined]:
        """All that wait, at an end."""
        return [self._alone(key) for key in list(self._waiting)]

    def _pushed_out(self) -> list[Joined]:
        ready = []
        settings = self._settings
        while len(self._waiting) > settings.max_waiting or self.waiting_bytes > settings.max_waiting_bytes:
            ready.append(self._alone(next(iter(self._waiting)), "pushed_out"))
        return ready

    def _take(self, key: tuple[str, ...]) -> LoggedEvent:
        event = self._waiting.pop(key).event
        self.waiting_bytes -= event.num_bytes
        return event

    def _alone(self, key: tuple[str, ...], why: JoinOutcome | None = None) -> Joined:
        event = self._take(key)
        if why is not None:
            self.counts[why] += 1
        if why != "reused":
            self._let_go.add(hash((key, "response" if event.kind == "request" else "request")))
        return self._counted(event)

    def _counted(self, event: LoggedEvent) -> Joined:
        is_request = event.kind == "request"
        self.counts["request_alone" if is_request else "response_alone"] += 1
        return Joined(event, None) if is_request else Joined(None, event)


class _Recent:
    """The last few numbers that were added; hashes, so that an id of any length takes the same memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: OrderedDict[int, None] = OrderedDict()

    def add(self, number: int) -> bool:
        """Whether it was not there yet."""
        if number in self._numbers:
            return False
        self._numbers[number] = None
        if len(self._numbers) > self._most:
            self._numbers.popitem(last=False)
        return True

    def drop(self, number: int) -> bool:
        """Forget a number; whether it was there."""
        if number not in self._numbers:
            return False
        del self._numbers[number]
        return True
