"""What the C library does with memory that is freed.

By default glibc gives large pieces back to the system at once, and every new tensor is made of fresh pages, which the
kernel has to clear (ADR 7 has figures). Other C libraries are left as they are.

That is a setting of the whole process, so only what starts one for a single piece of work asks for it: a command, a
component, the first process of a run. Where nobody did, nothing here does anything.
"""

import ctypes
import os
from typing import Any

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_KEPT_BYTES = 1 << 30
_is_kept = False


def keep_freed_memory(*, one_heap: bool = False) -> None:
    """From now on keep up to 1 GiB of freed memory for the next tensors, unless MALLOC_ variables say otherwise.

    Args:
        one_heap: All threads share one. Each has its own otherwise, of pieces of 64 MiB, which large tensors leave
            half empty; but many threads with many small pieces would wait for one.
    """
    global _is_kept
    _is_kept = True
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = _of_glibc("mallopt")
    if mallopt:
        if one_heap:
            mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def release_freed_memory() -> None:
    """Give back what is kept, where tensors of other sizes follow, which would find little place in it."""
    trim = _of_glibc("malloc_trim") if _is_kept else None
    if trim:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # no glibc
        return None
