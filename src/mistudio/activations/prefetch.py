"""Making the next items on other threads while this one is in use: a forward pass beside the disk."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


class Prefetched(Iterator[Made]):
    """``make(item)`` of each item, in their order, made on other threads at most ``ahead`` before it is used.

    The making starts at once. What the making of an item raises is raised here, after the items before it. Close it
    (``contextlib.closing``) where it may not be used up: it then waits for what is being made.

    Args:
        make: is called on another thread.
        items: what it is called with.
        ahead: items made, or being made, that were not asked for.
        pool: its threads are used, and more than one item can be made at once; none: one thread of its own.
    """

    def __init__(
        self, make: Callable[[Given], Made], items: Iterable[Given], ahead: int, pool: Executor | None = None
    ) -> None:
        self._own = ThreadPoolExecutor(1, "prefetch")  # has no thread before it is used
        executor = pool or self._own
        self._coming: Iterator[Future[Made]] = (executor.submit(make, item) for item in items)
        self._pending: deque[Future[Made]] = deque(islice(self._coming, ahead))

    def __next__(self) -> Made:
        if not self._pending:
            self.close()
            raise StopIteration
        try:
            made = self._pending.popleft().result()
        except BaseException:
            self.close()
            raise
        self._pending.extend(islice(self._coming, 1))
        return made

    def close(self) -> None:
        """Make no more items, and wait for those that are being made."""
        self._coming = iter(())
        for future in self._pending:
            future.cancel()
        wait(self._pending)
        self._pending.clear()
        self._own.shutdown()
