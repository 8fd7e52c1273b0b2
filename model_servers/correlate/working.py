"""Threads that look up, so that the event loop only waits; with so many places to wait, and no more."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import TypeVar

from mistudio.errors import Busy
from model_servers.base.problems import ClientLeft

Made = TypeVar("Made")


class Workers:
    """Threads for look-ups of one kind.

    Args:
        name: of the threads.
        num_threads: look-ups at once.
        max_queue: look-ups that wait beside those.
    """

    def __init__(self, name: str, num_threads: int, max_queue: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, name)
        self._num_threads, self._max_queue = num_threads, max_queue
        self._num_taken = 0
        self._lock = Lock()

    @property
    def num_running(self) -> int:
        """Look-ups that are under way."""
        return min(self._num_taken, self._num_threads)

    @property
    def num_waiting(self) -> int:
        """Look-ups that wait."""
        return max(0, self._num_taken - self._num_threads)

    async def run(self, work: Callable[["Left"], Made]) -> Made:
        """What ``work`` gives. When nobody waits for it any more it never begins, or ends where it looks at ``Left``.

        Its place is free again when its thread is: what cannot be stopped is counted until it ends.

        Raises:
            Busy: all places are taken.
        """
        left = Left()
        future = self._submit(lambda: work(left))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            left.set()
            raise

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, work: Callable[[], Made]) -> "Future[Made]":
        with self._lock:
            if self._num_taken >= self._num_threads + self._max_queue:
                message = f"{self._num_taken} look-ups are under way or wait, the most at once: try again in a moment."
                raise Busy(message, 1.0)
            self._num_taken += 1
        future = self._pool.submit(work)
        future.add_done_callback(self._free)
        return future

    def _free(self, _future: "Future[Made]") -> None:
        with self._lock:
            self._num_taken -= 1


class Left:
    """Whether anybody still waits for a look-up; for any thread."""

    def __init__(self) -> None:
        self._event = Event()

    def set(self) -> None:
        """Nobody does."""
        self._event.set()

    def check(self) -> None:
        """End where nobody does.

        Raises:
            ClientLeft: nobody does.
        """
        if self._event.is_set():
            raise ClientLeft
