"""Threads that each compute a part of a batch.

The demo subject's matrices are so small that an operation gains little from a second thread; two halves of a batch
beside each other gain nearly all of it. And sums then do not depend on how many threads there are.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def single_threads(parts: int) -> Iterator[ThreadPoolExecutor]:
    """As many threads as PyTorch may use, but at most ``parts``; until the end every operation has one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of the whole process
    try:
        with ThreadPoolExecutor(min(parts, threads), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
