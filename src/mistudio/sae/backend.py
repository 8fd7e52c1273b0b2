"""Which kernels serve a tensor: Triton's on a GPU, PyTorch's elsewhere.

The environment variable ``MISTUDIO_TRITON`` decides otherwise. 0: PyTorch's on a GPU as well. 1: an error where
Triton cannot serve a GPU, instead of PyTorch's kernels; and with ``TRITON_INTERPRET=1``, Triton's kernels on a CPU
too, in its interpreter, which is slow and meant for tests.
"""

import os
import warnings
from functools import cache
from importlib import import_module

from torch import Tensor

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened

TRITON_ENV = "MISTUDIO_TRITON"


def serves_triton(tensor: Tensor) -> bool:
    """Whether the Triton kernels are to be used for this tensor.

    Raises:
        ConfigError: ``MISTUDIO_TRITON`` is neither 0 nor 1, or it is 1 and Triton cannot serve the GPU.
    """
    asked = os.environ.get(TRITON_ENV, "")
    if asked not in ("", "0", "1"):
        message = f"{TRITON_ENV} is {shortened(asked)}. Set it to 0 or 1, or not at all."
        raise ConfigError(message)
    if asked == "0":
        return False
    if not tensor.is_cuda:
        return asked == "1" and os.environ.get("TRITON_INTERPRET") == "1"
    problem = _problem()
    if problem and asked == "1":
        message = f"{TRITON_ENV} is 1, but Triton cannot serve the GPU: {problem}. Mend that, or do not set it."
        raise ConfigError(message)
    return not problem


@cache
def _problem() -> str:
    """Why Triton cannot serve the GPU; empty if it can."""
    try:
        # Builds a helper with the C compiler when first asked for.
        _ = import_module("triton").runtime.driver.active
    except ImportError as error:
        return str(error)
    except Exception as error:  # a missing compiler, header or driver library: each shows in a way of its own
        warnings.warn(f"Triton cannot serve the GPU ({error}): PyTorch's slower kernels do.", stacklevel=2)
        return str(error)
    return ""
