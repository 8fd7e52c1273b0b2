"""Events passed on to another sink: an InferenceService has one logger, and who watched it before still wants to.

An event goes on as it came, once and without another try, as its sender sent it. What waits is bounded; where there is
no more room the newest is dropped, with a count. Of the headers only those of the event go on: keys that were meant for
this server do not.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
from pydantic import Field, field_validator

from mistudio.addresses import Reach, send_guarded
from mistudio.errors import ConfigError, MistudioError
from mistudio.plain_text import shortened
from mistudio.settings import Settings

FORWARD_OUTCOMES = ("offered", "sent", "refused", "failed", "dropped")
_PASSED_ON = frozenset(("content-type", "content-encoding", "traceparent", "tracestate"))
_EVENT_PREFIX = "ce-"
_OVERHEAD_BYTES = 1024
_MAX_ANSWER_BYTES = 65_536


class ForwardSettings(Settings):
    """Where events go on to, and how much may wait."""

    url: str = Field(max_length=2048, description="http:// or https:// address that takes CloudEvents")
    max_queue: int = Field(10_000, ge=1, le=10_000_000, description="events that wait to be sent")
    max_queue_bytes: int = Field(64 << 20, ge=1024, le=1 << 40, description="bytes of them")
    connections: int = Field(8, ge=1, le=256, description="events that are sent at once")
    timeout_s: float = Field(10.0, gt=0, le=600, description="seconds that one may take")

    @field_validator("url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            fits, parts = False, urlsplit("")
        if not fits or "@" in parts.netloc:
            shown = "(it holds a user or a key)" if "@" in value else shortened(value)
            message = f"url {shown} is no address to forward to: write one like http://sink.monitoring.svc/events."
            raise ConfigError(message)
        return value


class _Passed(NamedTuple):
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def num_bytes(self) -> int:
        return len(self.body) + _OVERHEAD_BYTES


class Forwarder:
    """Passes events on, from one event loop: :meth:`offer` in it, and :meth:`run` as a task of it."""

    def __init__(self, settings: ForwardSettings) -> None:
        self._settings = settings
        self._queue: deque[_Passed] = deque()
        self._queued_bytes = self._under_way = 0
        self._changed = asyncio.Event()
        self._is_closed = False
        self._counts = dict.fromkeys(FORWARD_OUTCOMES, 0)

    def offer(self, headers: Iterable[tuple[str, str]], body: bytes) -> bool:
        """Put an event into the queue; returns at once.

        Args:
            headers: as HTTP servers have them, a character a byte.
            body: as it came.

        Returns:
            Whether there was room.
        """
        kept = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers if _goes_on(name.lower())]
        passed, settings = _Passed(kept, body), self._settings
        self._counts["offered"] += 1
        is_full = len(self._queue) >= settings.max_queue
        if self._is_closed or is_full or self._queued_bytes + passed.num_bytes > settings.max_queue_bytes:
            self._counts["dropped"] += 1
            return False
        self._queue.append(passed)
        self._queued_bytes += passed.num_bytes
        self._changed.set()
        return True

    def counts(self) -> dict[str, int]:
        """What became of events, by :data:`FORWARD_OUTCOMES`."""
        return dict(self._counts)

    @property
    def num_queued(self) -> int:
        """Events that wait."""
        return len(self._queue)

    async def run(self) -> None:
        """Send what comes, until :meth:`close`."""
        limits = httpx.Limits(max_connections=self._settings.connections)
        for name in ("httpx", "httpcore"):  # they write addresses and headers
            logging.getLogger(name).setLevel(logging.WARNING)
        async with (
            httpx.AsyncClient(timeout=self._settings.timeout_s, limits=limits, follow_redirects=False) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._settings.connections):
                group.create_task(self._work(client))

    async def close(self, timeout_s: float) -> None:
        """Take no more, send what waits for up to a time, and end :meth:`run`; what is left is dropped."""
        self._is_closed = True
        self._changed.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._queue or self._under_way:
                    await asyncio.sleep(_LOOK_AGAIN_S)
        self._counts["dropped"] += len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0

    async def _work(self, client: httpx.AsyncClient) -> None:
        while True:
            while not self._queue:
                if self._is_closed:
                    return
                self._changed.clear()
                await self._changed.wait()
            passed = self._queue.popleft()
            self._queued_bytes -= passed.num_bytes
            self._under_way += 1
            try:
                await self._send(client, passed)
            finally:
                self._under_way -= 1

    async def _send(self, client: httpx.AsyncClient, passed: _Passed) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                request = client.build_request("POST", self._settings.url, headers=passed.headers, content=passed.body)
                response = await send_guarded(lambda each: client.send(each, stream=True), request, Reach.TRUSTED)
                try:
                    await _read_bounded(response)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, MistudioError, OSError, ValueError):  # the last of what no header can hold
            self._counts["failed"] += 1
            return
        self._counts["sent" if response.is_success else "refused"] += 1


_LOOK_AGAIN_S = 0.02


async def _read_bounded(response: httpx.Response) -> None:
    """Read a short answer, so that its connection can be used again."""
    num_bytes = 0
    async for chunk in response.aiter_raw():
        num_bytes += len(chunk)
        if num_bytes > _MAX_ANSWER_BYTES:
            return


def _goes_on(name: str) -> bool:
    return name.startswith(_EVENT_PREFIX) or name in _PASSED_ON
