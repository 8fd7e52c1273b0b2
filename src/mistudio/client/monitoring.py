"""The monitor from Python: ``client.monitor.alerts()``, and ``for event in client.monitor.stream(): ...``.

What comes back are objects of JSON as the server has them: see the page on monitoring.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import httpx

from mistudio.client.calls import Call, MessageLike, checked, plain
from mistudio.client.events import EventReader

Told = Mapping[str, Any]
_TOP = "/v1/monitor"


class OfTraffic(TypedDict, total=False):
    """When and where; times in seconds since 1970."""

    since: float
    until: float
    exchange: str
    model: str
    endpoint: str
    namespace: str
    tenant: str
    before: int
    limit: int


class AlertsAsked(OfTraffic, total=False):
    """Which alerts."""

    rule: str
    kind: str
    watched: str
    is_open: bool


class HistoryAsked(OfTraffic, total=False):
    """Which samples; ``before`` is the ``next`` of the page before."""

    feature: str
    column: str
    min_value: float


class StreamAsked(TypedDict, total=False):
    """What of the live stream; ``last_event_id`` is the ``id`` of the last event that is known already."""

    kinds: Sequence[str]
    watched: Sequence[str]
    features: Sequence[str]
    model: str
    endpoint: str
    tenant: str
    request: str
    min_value: float
    tokens: bool
    last_event_id: str


class ObserveAsked(TypedDict, total=False):
    """What is to be read, in place of a text, and how."""

    ids: Sequence[int]
    messages: Sequence[MessageLike]
    reply_from: int
    tokens: bool
    record: bool
    model: str
    endpoint: str
    tenant: str


class AcknowledgeAsked(TypedDict, total=False):
    """What was seen."""

    watched: Sequence[str]
    group: str
    alert: str
    rebaseline: bool


class Streaming(NamedTuple):
    """A request whose answer is a stream."""

    path: str
    parameters: dict[str, Any]


class _Ask(Protocol):
    def __call__(self, method: str, call: Call) -> Any:
        """The JSON of a server's reply."""


class _AskLater(Protocol):
    def __call__(self, method: str, call: Call) -> Awaitable[Any]:
        """The same, waited for by the caller."""


class Monitor:
    """The monitor, by the client that waits; errors as in ``mistudio.errors``.

    Args:
        ask: asks a server.
        open_stream: opens an answer that is a stream.
    """

    def __init__(self, ask: _Ask, open_stream: Callable[[Streaming], AbstractContextManager[httpx.Response]]) -> None:
        self._ask, self._open_stream = ask, open_stream

    def status(self) -> Told:
        """What is watched, and what was counted."""
        return told(self._ask("GET", get("status")))

    def alerts(self, **asked: Unpack[AlertsAsked]) -> list[Told]:
        """Alerts, the newest first."""
        return list(self._ask("GET", get("alerts", asked))["alerts"])

    def history(self, **asked: Unpack[HistoryAsked]) -> Told:
        """Samples that were read, the newest first, under ``samples``; and ``next``."""
        return told(self._ask("GET", get("history", asked)))

    def drift(self, count: int = 20, group: str | None = None) -> Told:
        """What fires otherwise than before, under ``changes``, and the texts of each of the ``streams``."""
        return told(self._ask("GET", get("drift", {"count": count, "group": group})))

    def acknowledge(self, **asked: Unpack[AcknowledgeAsked]) -> Told:
        """Say that what was told was seen."""
        return told(self._ask("POST", Call(f"{_TOP}/acknowledge", plain(asked))))

    def rules(self) -> Told:
        """The rules that hold, and what each has met."""
        return told(self._ask("GET", get("rules")))

    def put_rules(self, rules: Told) -> Told:
        """Judge by other rules from now on."""
        return told(self._ask("PUT", Call(f"{_TOP}/rules", plain(rules))))

    def observe(self, text: str | None = None, **asked: Unpack[ObserveAsked]) -> Told:
        """Read a text, the ``messages`` of a chat or ``ids`` of tokens at once."""
        return told(self._ask("POST", observation(text, asked))["predictions"][0])

    def stream(self, **asked: Unpack[StreamAsked]) -> Iterator[Told]:
        """What is read and told, as it comes; leave it to end it."""
        with self._open_stream(stream_of(asked)) as response:
            if response.is_error:
                checked(response.status_code, response.headers, response.read())
            reader = EventReader()
            for some in response.iter_bytes():
                yield from reader.events(some)


class AsyncMonitor:
    """The monitor, by the client that lets others go on; errors as in ``mistudio.errors``.

    Args:
        ask: asks a server.
        open_stream: opens an answer that is a stream.
    """

    def __init__(
        self, ask: _AskLater, open_stream: Callable[[Streaming], AbstractAsyncContextManager[httpx.Response]]
    ) -> None:
        self._ask, self._open_stream = ask, open_stream

    async def status(self) -> Told:
        """What is watched, and what was counted."""
        return told(await self._ask("GET", get("status")))

    async def alerts(self, **asked: Unpack[AlertsAsked]) -> list[Told]:
        """Alerts, the newest first."""
        return list((await self._ask("GET", get("alerts", asked)))["alerts"])

    async def history(self, **asked: Unpack[HistoryAsked]) -> Told:
        """Samples that were read, the newest first, under ``samples``; and ``next``."""
        return told(await self._ask("GET", get("history", asked)))

    async def drift(self, count: int = 20, group: str | None = None) -> Told:
        """What fires otherwise than before, under ``changes``, and the texts of each of the ``streams``."""
        return told(await self._ask("GET", get("drift", {"count": count, "group": group})))

    async def acknowledge(self, **asked: Unpack[AcknowledgeAsked]) -> Told:
        """Say that what was told was seen."""
        return told(await self._ask("POST", Call(f"{_TOP}/acknowledge", plain(asked))))

    async def rules(self) -> Told:
        """The rules that hold, and what each has met."""
        return told(await self._ask("GET", get("rules")))

    async def put_rules(self, rules: Told) -> Told:
        """Judge by other rules from now on."""
        return told(await self._ask("PUT", Call(f"{_TOP}/rules", plain(rules))))

    async def observe(self, text: str | None = None, **asked: Unpack[ObserveAsked]) -> Told:
        """Read a text, the ``messages`` of a chat or ``ids`` of tokens at once."""
        return told((await self._ask("POST", observation(text, asked)))["predictions"][0])

    async def stream(self, **asked: Unpack[StreamAsked]) -> AsyncIterator[Told]:
        """What is read and told, as it comes; leave it to end it."""
        async with self._open_stream(stream_of(asked)) as response:
            if response.is_error:
                checked(response.status_code, response.headers, await response.aread())
            reader = EventReader()
            async for some in response.aiter_bytes():
                for event in reader.events(some):
                    yield event


def get(name: str, asked: Mapping[str, Any] | None = None) -> Call:
    """The request for something; its parameters are in the address, so that the body says them here."""
    return Call(f"{_TOP}/{name}", {key: value for key, value in (asked or {}).items() if value is not None})


def observation(text: str | None, asked: ObserveAsked) -> Call:
    """The request to read something."""
    fields = {"text": text, **asked}
    instance = {key: value for key, value in fields.items() if value is not None}
    return Call("/v1/models/monitor:predict", plain({"instances": [instance]}))


def stream_of(asked: StreamAsked) -> Streaming:
    """The request for the live stream."""
    return Streaming(f"{_TOP}/stream", {key: _parameter(value) for key, value in asked.items() if value is not None})


def told(reply: Any) -> Told:
    """A reply, which is an object."""
    found: Told = reply
    return found


def _parameter(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str | int | float) else ",".join(map(str, value))
