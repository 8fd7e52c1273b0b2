"""Making the next items on another thread while this one is in use: a forward pass beside the disk."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterable[T], ahead: int) -> Generator[T, None, None]:
    """The same items in the same order, each made on one other thread, at most ``ahead`` before they are used.

    What the making of an item raises is raised here, after the items before it. Close the generator
    (``contextlib.closing``) where it may not be used up: the thread ends with the item that it is at.
    """
    iterator = iter(items)
    pending: deque[Future[tuple[T] | None]] = deque()

    def make() -> tuple[T] | None:
        for item in iterator:
            return (item,)
        return None

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as executor:
        pending.extend(executor.submit(make) for _ in range(ahead))
        try:
            while (made := pending.popleft().result()) is not None:
                pending.append(executor.submit(make))
                yield made[0]
        finally:
            for future in pending:
                future.cancel()
