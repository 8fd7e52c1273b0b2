"""What the C library does with memory that is freed.

By default glibc gives large pieces back to the system at once, and every new tensor is made of fresh pages, which the
kernel has to clear (ADR 7 has figures). Other C libraries are left as they are.
"""

import ctypes
import os

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """From now on keep up to 1 GiB of freed memory for the next tensors, unless MALLOC_ variables say otherwise."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
