"""Items made ahead on another thread are the same items, in order, and never many."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from mistudio.activations import Prefetched


class Source:
    """Counts up to ``stop``, and notes how far it got and on which threads."""

    def __init__(self, stop: int) -> None:
        self.stop, self.made = stop, 0
        self.threads: set[int] = set()
        self.moved = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        for item in range(self.stop):
            with self.moved:
                self.made += 1
                self.threads.add(threading.get_ident())
                self.moved.notify_all()
            yield item

    def wait_for(self, made: int) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: self.made >= made, timeout=60)


@pytest.mark.parametrize("ahead", [1, 2, 50])
@pytest.mark.parametrize("stop", [0, 1, 20])
def test_all_items_come_in_order_from_one_other_thread(stop: int, ahead: int) -> None:
    source = Source(stop)
    assert list(Prefetched(source, ahead)) == list(range(stop))
    assert source.threads.isdisjoint({threading.get_ident()})
    assert len(source.threads) == min(stop, 1)


def test_items_are_made_before_they_are_asked_for_but_no_more_than_allowed() -> None:
    source = Source(100)
    with closing(Prefetched(source, 3)) as items:
        for used, item in enumerate(items):
            assert item == used
            source.wait_for(min(used + 4, 100))
            assert source.made <= used + 4
            if used == 10:
                break
    assert source.made <= 15


def test_an_error_comes_after_the_items_before_it() -> None:
    def failing() -> Iterator[int]:
        yield from range(3)
        message = "broken"
        raise ValueError(message)

    items = Prefetched(failing(), 8)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    items = Prefetched(Source(1000), 2)
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before
