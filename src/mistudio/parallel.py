"""The same work on many items, on all cores.

:func:`in_parallel` and :func:`beside` are for work in Python and NumPy, which one process does on one core. Their
workers are forks of this process, so that what they read costs neither time nor memory, however large. A fork cannot
use a GPU, and not every library survives one: the work is to be plain Python and NumPy.

:func:`single_threads` and :func:`two_at_once` are for work in PyTorch on matrices so small that an operation gains
little from more threads: pieces beside each other gain nearly all of it. With single threads, sums do not depend on how
many there are. :func:`one_thread` is for operations so small that sharing them out takes longer.
"""

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from mistudio.errors import MistudioError

Given = TypeVar("Given")
Made = TypeVar("Made")

_ITEMS_AT_ONCE = 4
_work: Callable[[Any], Any] | None = None  # of a worker


def in_parallel(work: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
    """``work(item)`` of each item, in their order; what it gives has to be picklable, and what it raises is raised.

    As many processes as there are cores to use, or as OMP_NUM_THREADS allows; this one alone where that is one, or
    where a system has no safe fork.

    Raises:
        MistudioError: a worker was killed.
    """
    num_workers = min(num_cores(), len(items) // _ITEMS_AT_ONCE)
    if num_workers < 2 or sys.platform != "linux":
        yield from map(work, items)
        return
    with _workers(num_workers, work) as pool:
        made = pool.map(_do, items, chunksize=_ITEMS_AT_ONCE)
        try:
            yield from made
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def beside(work: Callable[[], Made]) -> Iterator[Callable[[], Made]]:
    """Begin ``work()`` in a process of its own, and give a function that waits for what it gives.

    Where there is one core to use, or no safe fork, the function does the work.

    Raises:
        MistudioError: the worker was killed.
    """
    if num_cores() < 2 or sys.platform != "linux":
        yield work
        return
    with _workers(1, lambda _: work()) as pool:
        yield pool.submit(_do, None).result


@contextmanager
def _workers(count: int, work: Callable[[Any], Any]) -> Iterator[Executor]:
    """Forks of this process that do ``work`` with what ``_do`` is called with."""
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(count, context, _begin, (work,)) as pool:
            with warnings.catch_warnings():
                # Python warns of threads that a fork does not have; the work needs none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                pool.submit(int)  # forks all workers
            yield pool
    except BrokenProcessPool as error:
        message = "A worker process was killed, perhaps for want of memory. Try again with OMP_NUM_THREADS=1."
        raise MistudioError(message) from error


@contextmanager
def single_threads(most: int) -> Iterator[Executor]:
    """As many threads as PyTorch may use, but at most so many; until the end every operation of theirs has one."""
    with _torch_threads(most, 1) as pool:
        yield pool


@contextmanager
def two_at_once() -> Iterator[Executor]:
    """Two threads that each have half of the cores: one where there is one."""
    with _torch_threads(2, None) as pool:
        yield pool


@contextmanager
def one_thread() -> Iterator[None]:
    """Until the end operations of this thread are not shared out: for such as take less time than that."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _torch_threads(most: int, each: int | None) -> Iterator[Executor]:
    import torch

    threads = torch.get_num_threads()
    workers = min(most, threads)
    each = each or threads // workers
    try:
        with ThreadPoolExecutor(workers, "piece", torch.set_num_threads, (each,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # a part of this setting is the process's


def num_cores() -> int:
    """Cores that this process may use, by its affinity, its container's limits and OMP_NUM_THREADS."""
    from joblib import cpu_count

    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores: int = cpu_count()
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def _begin(work: Callable[[Any], Any]) -> None:
    from threadpoolctl import threadpool_limits

    global _work
    _work = work
    threadpool_limits(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A killed parent leaves no workers behind."""
    wait([sentinel])
    os._exit(1)


def _do(item: Any) -> Any:
    if _work is None:
        message = "a worker has no work"
        raise RuntimeError(message)
    return _work(item)
