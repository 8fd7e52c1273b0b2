"""Making the next items on another thread while this one is in use: a forward pass beside the disk."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Prefetched(Iterator[T]):
    """The same items in the same order, each made on one other thread, at most ``ahead`` before they are used.

    The making starts at once. What the making of an item raises is raised here, after the items before it. Close it
    (``contextlib.closing``) where it may not be used up: the thread ends with the item that it is at.
    """

    def __init__(self, items: Iterable[T], ahead: int) -> None:
        self._items = iter(items)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._pending: deque[Future[tuple[T] | None]] = deque()
        self._pending.extend(self._executor.submit(self._make) for _ in range(ahead))

    def __next__(self) -> T:
        if not self._pending:
            raise StopIteration
        try:
            made = self._pending.popleft().result()
        except BaseException:
            self.close()
            raise
        if made is None:
            self.close()
            raise StopIteration
        self._pending.append(self._executor.submit(self._make))
        return made[0]

    def close(self) -> None:
        """Make no more items, and wait for the one that is being made."""
        self._pending.clear()
        self._executor.shutdown(cancel_futures=True)

    def _make(self) -> tuple[T] | None:
        for item in self._items:
            return (item,)
        return None
