"""Memory that runs out: how it shows, and what to tell the user.

A GPU's allocator has an exception of its own. On a CPU PyTorch's raises a plain RuntimeError, NumPy a MemoryError, and
what C++ code allocates by itself either, depending on who translates it; libraries of CUDA have error codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mistudio.errors import ConfigError

_MESSAGES = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def too_little_memory(what: str, width: int) -> ConfigError:
    """The error of a training that cannot go on for lack of memory.

    Args:
        what: while doing what, or with what.
        width: of the autoencoder.
    """
    advice = "Lower width, or use a device with more memory: see mistudio check-memory."
    return ConfigError(f"Out of memory {what} at width {width:,}. {advice}")


@contextmanager
def memory_needed(what: str, width: int) -> Iterator[None]:
    """Say what ran out of memory inside, where smaller parts of a batch would not help.

    Args:
        what: as for :func:`too_little_memory`.
        width: of the autoencoder.

    Raises:
        ConfigError: memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_little_memory(what, width) from error
