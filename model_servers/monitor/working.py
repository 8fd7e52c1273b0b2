"""Threads that work for routes, so that the event loop only waits; with so many places, and no more."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mistudio.errors import Busy

Made = TypeVar("Made")
_RETRY_S = 1.0


class Places:
    """Threads, and places for what they do; used from one event loop.

    Args:
        name: of the threads.
        num_threads: that work at once.
        num_places: for what is worked on and what waits.
    """

    def __init__(self, name: str, num_threads: int, num_places: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, name)
        self._num_places, self._num_taken = num_places, 0

    async def run(self, work: Callable[[], Made]) -> Made:
        """What ``work`` gives; what has begun goes on when nobody waits for it any more, and keeps its place.

        Raises:
            Busy: all places are taken.
        """
        if self._num_taken >= self._num_places:
            message = f"{self._num_taken} requests are worked on or wait, as many as may: try again in a moment."
            raise Busy(message, _RETRY_S)
        self._num_taken += 1
        working = asyncio.get_running_loop().run_in_executor(self._pool, work)
        working.add_done_callback(self._done)
        return await asyncio.shield(working)

    def close(self) -> None:
        """Begin nothing more, and wait for what has begun."""
        self._pool.shutdown(cancel_futures=True)

    def _done(self, working: "asyncio.Future[Made]") -> None:
        self._num_taken -= 1
        if not working.cancelled():
            working.exception()  # nobody may wait for it any more
