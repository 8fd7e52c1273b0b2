"""Where a server is in its life: loading, answering, ending; and how many requests it is at."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from model_servers.base.metrics import Metrics
from model_servers.base.problems import draining, too_busy


class ServerState:
    """Of one server; changed on its event loop alone.

    Args:
        max_requests: requests that are read or answered at once.
        is_alive: whether what answers them can.
        metrics: where they are counted.

    Attributes:
        is_loaded: all predictors are loaded.
        is_draining: no further requests are answered.
    """

    def __init__(self, max_requests: int, metrics: Metrics, is_alive: Callable[[], bool] = lambda: True) -> None:
        self.is_loaded = False
        self.is_draining = False
        self._max_requests = max_requests
        self._metrics, self._is_alive = metrics, is_alive
        self._num_requests = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered, or will be."""
        return self._is_alive()

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self.is_loaded and not self.is_draining and self.is_alive

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, while it is read and answered.

        Raises:
            Refused: the server is ending, or at as many as it takes.
        """
        if self.is_draining:
            raise draining()
        if self._num_requests >= self._max_requests:
            message = f"The server is at {self._num_requests} requests, the most that it takes: try again in a moment."
            raise too_busy(message, 1)
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    async def idle(self) -> None:
        """Wait until no request is left."""
        await self._is_idle.wait()

    def _change(self, by: int) -> None:
        self._num_requests += by
        self._metrics.in_flight.set(self._num_requests)
        if self._num_requests:
            self._is_idle.clear()
        else:
            self._is_idle.set()
