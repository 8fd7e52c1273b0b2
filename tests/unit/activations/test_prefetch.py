"""Items made ahead on other threads are the same items, in order, and never many."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from mistudio.activations import Prefetched
from tests.support.threads import threads_since


class Maker:
    """Makes items, and notes how many and on which threads."""

    def __init__(self) -> None:
        self.made = 0
        self.threads: set[int] = set()
        self.moved = threading.Condition()

    def __call__(self, item: int) -> int:
        with self.moved:
            self.made += 1
            self.threads.add(threading.get_ident())
            self.moved.notify_all()
        return item

    def wait_for(self, made: int) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: self.made >= made, timeout=60)


@pytest.mark.parametrize("ahead", [1, 2, 50])
@pytest.mark.parametrize("stop", [0, 1, 20])
def test_all_items_come_in_order_from_one_other_thread(stop: int, ahead: int) -> None:
    make = Maker()
    assert list(Prefetched(make, range(stop), ahead)) == list(range(stop))
    assert make.threads.isdisjoint({threading.get_ident()})
    assert len(make.threads) == min(stop, 1)


def test_items_that_a_pool_makes_at_once_come_in_order() -> None:
    both = threading.Barrier(2)

    def make(item: int) -> int:
        both.wait(timeout=60)  # is passed only where two are made at once
        return item

    with ThreadPoolExecutor(2) as pool, closing(Prefetched(make, range(20), 2, pool)) as items:
        assert list(items) == list(range(20))


def test_items_are_made_before_they_are_asked_for_but_no_more_than_allowed() -> None:
    make = Maker()
    with closing(Prefetched(make, range(100), 3)) as items:
        for used, item in enumerate(items):
            assert item == used
            make.wait_for(min(used + 4, 100))
            assert make.made <= used + 4
            if used == 10:
                break
    assert make.made <= 15


def test_an_error_comes_after_the_items_before_it() -> None:
    def make(item: int) -> int:
        if item == 3:
            message = "broken"
            raise ValueError(message)
        return item

    items = Prefetched(make, range(20), 8)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_closing_ends_the_thread() -> None:
    added = threads_since()
    items = Prefetched(Maker(), range(1000), 2)
    next(items)
    assert added() == 1
    items.close()
    assert added() == 0
