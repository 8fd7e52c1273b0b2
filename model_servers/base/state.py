"""Where a server is in its life: loading, answering, ending; and how many requests it is at."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from model_servers.base.lanes import Lane
from model_servers.base.metrics import Metrics
from model_servers.base.problems import draining, too_busy
from model_servers.base.settings import ServerSettings

_CALLED = {Lane.REQUEST: "requests", Lane.STREAM: "streams", Lane.SINK: "events that are read"}


class ServerState:
    """Of one server; changed on its event loop alone.

    Args:
        settings: with how much is read or answered at once, lane by lane.
        is_alive: whether what answers them can.
        metrics: where they are counted.

    Attributes:
        is_loaded: all predictors are loaded.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, is_alive: Callable[[], bool] = lambda: True) -> None:
        self.is_loaded = False
        self._most = {
            Lane.REQUEST: settings.max_requests,
            Lane.STREAM: settings.max_streams,
            Lane.SINK: settings.max_sinks,
        }
        self._at = dict.fromkeys(Lane, 0)
        self._metrics, self._is_alive = metrics, is_alive
        self._draining = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered, or will be."""
        return self._is_alive()

    @property
    def is_draining(self) -> bool:
        """Whether no further requests are answered."""
        return self._draining.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.is_loaded and not self.is_draining and self.is_alive

    def drain(self) -> None:
        """Answer no further requests from now on."""
        self._draining.set()

    async def drains(self) -> None:
        """Wait until no further requests are answered."""
        await self._draining.wait()

    @contextmanager
    def request(self, lane: Lane = Lane.REQUEST) -> Iterator[None]:
        """One request, while it is read and answered.

        Raises:
            Refused: the server is ending, or at as many as it takes.
        """
        if self.is_draining:
            raise draining()
        if self._at[lane] >= self._most[lane]:
            what = f"{self._at[lane]} {_CALLED[lane]}"
            message = f"The server is at {what}, the most that it takes: try again in a moment."
            raise too_busy(message, 1)
        self._change(lane, 1)
        try:
            yield
        finally:
            self._change(lane, -1)

    async def idle(self) -> None:
        """Wait until no request is left."""
        await self._is_idle.wait()

    def _change(self, lane: Lane, by: int) -> None:
        self._at[lane] += by
        in_flight = sum(self._at.values())
        self._metrics.in_flight.set(in_flight)
        self._metrics.streams.set(self._at[Lane.STREAM])
        if in_flight:
            self._is_idle.clear()
        else:
            self._is_idle.set()
