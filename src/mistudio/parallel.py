"""The same work on many items, on all cores.

:func:`in_parallel` and :func:`in_background` are for work in Python and NumPy, which one process does on one core.
Their workers are forks of this process, so that what they read costs neither time nor memory, however large. A fork
cannot use a GPU, and not every library survives one: the work is to be plain Python and NumPy.

:func:`single_threads` and :func:`two_at_once` are for work in PyTorch on matrices so small that an operation gains
little from more threads: pieces beside each other gain nearly all of it. With single threads, sums do not depend on how
many there are. :func:`one_thread` is for operations so small that sharing them out takes longer. All three set how many
threads an operation has for threads of their own alone: whatever else the process does, as a server may, goes on as
before.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, TypeVar

from mistudio.errors import MistudioError

Given = TypeVar("Given")
Made = TypeVar("Made")

_Setter = Callable[[int], int]
_ITEMS_AT_ONCE = 4
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
        pieces = (items[first : first + _ITEMS_AT_ONCE] for first in range(0, len(items), _ITEMS_AT_ONCE))
        pending = deque(pool.submit(_do_all, piece) for piece in pieces)
        try:
            while pending:
                yield from pending.popleft().result()
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)  # where workers are ended instead, all is left to them
            raise


@contextmanager
def in_background(work: Callable[[], Made]) -> Iterator[Callable[[], Made]]:
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
    told, tell = context.Pipe(duplex=False)
    try:
        with told, tell, ProcessPoolExecutor(count, context, _begin, (work, told)) as pool, _ending(tell):
            with warnings.catch_warnings():
                # Python warns of threads that a fork does not have; the work needs none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                with _held_back():
                    pool.submit(int)  # forks all workers
            yield pool
    except BrokenProcessPool as error:
        message = "A worker process was killed, perhaps for want of memory. Try again with OMP_NUM_THREADS=1."
        raise MistudioError(message) from error


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals to end wait meanwhile, also in what is forked, until it has its own answer to them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ending(tell: Connection) -> Iterator[None]:
    """Where this process is told to end, or nothing more is asked for, workers end at once and not with their item."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            tell.send(None)  # nobody takes it: each worker sees that it is there
        raise


@contextmanager
def single_threads(most: int) -> Iterator[Executor]:
    """As many threads as PyTorch may use, but at most so many, whose operations have one thread each."""
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
    before = _limit_here(1)
    try:
        yield
    finally:
        if before:
            before.restore()


@contextmanager
def _torch_threads(most: int, each: int | None) -> Iterator[Executor]:
    import torch

    threads = torch.get_num_threads()
    workers = min(most, threads) if _setters() else 1
    with ThreadPoolExecutor(workers, "piece", _limit_here, (each or threads // workers,)) as pool:
        yield pool


class _Before(NamedTuple):
    """How many threads operations of this thread had: in OpenMP's loops, and in MKL's products (0: as many)."""

    of_openmp: int
    of_mkl: int

    def restore(self) -> None:
        """Go back to that."""
        set_openmp, set_mkl = _setters() or (None, None)
        if set_openmp:
            set_openmp(self.of_openmp)
        if set_mkl:
            set_mkl(self.of_mkl)


def _limit_here(count: int) -> _Before | None:
    """Let operations of the calling thread have so many threads; None where that cannot be said of one thread.

    ``torch.set_num_threads`` says it of the process: every thread that is new to PyTorch takes what was set last.
    """
    import torch

    before = torch.get_num_threads()  # asking lets PyTorch set what it starts with, which it does once a thread
    set_openmp, set_mkl = _setters() or (None, None)
    if set_openmp is None:
        return None
    set_openmp(count)
    return _Before(before, set_mkl(count) if set_mkl else 0)


@cache
def _setters() -> "tuple[_Setter, _Setter | None] | None":
    """OpenMP's and MKL's setters of how many threads operations of the calling thread have; MKL's where it is used."""
    import torch

    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        library = ctypes.CDLL(torch._C.__file__)
        return library.omp_set_num_threads, getattr(library, "MKL_Set_Num_Threads_Local", None)
    except (AttributeError, OSError):
        return None


def num_cores() -> int:
    """Cores that this process may use, by its affinity, its container's limits and OMP_NUM_THREADS."""
    from joblib import cpu_count

    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    cores: int = cpu_count()
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def _begin(work: Callable[[Any], Any], told: Connection) -> None:
    global _work
    _work = work
    # Ctrl-C reaches all processes of a terminal: the first of them says what ends.
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel, told), daemon=True).start()


def _end_with(sentinel: int, told: Connection) -> None:
    """A parent that was killed, or told to end, leaves no workers behind."""
    wait([sentinel, told])
    os._exit(1)


def _do(item: Any) -> Any:
    if _work is None:
        message = "a worker has no work"
        raise RuntimeError(message)
    return _work(item)


def _do_all(items: Sequence[Any]) -> list[Any]:
    return [_do(item) for item in items]
