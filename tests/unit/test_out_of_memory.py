"""Real allocators that refuse, and errors that only look like it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mistudio.errors import ConfigError
from mistudio.out_of_memory import is_out_of_memory, memory_needed

_TOO_MUCH = 1 << 50  # more than can be addressed, whatever the system promises


@pytest.mark.parametrize("allocate", [torch.empty, torch.ones, np.empty, bytearray])
def test_what_allocators_raise_is_recognised(allocate: Callable[[int], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(_TOO_MUCH)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_a_gpu_and_c_code_say_is_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ConfigError("Out of memory with one token at a time"),
        KeyboardInterrupt("out of memory"),
    ],
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_it_is_said_what_did_not_fit_and_other_errors_pass() -> None:
    message = r"Out of memory in a test at width 1,024\. Lower width.*check-memory"
    with pytest.raises(ConfigError, match=message), memory_needed("in a test", 1024):
        torch.empty(_TOO_MUCH)
    with pytest.raises(RuntimeError, match="another"), memory_needed("in a test", 1024):
        raise RuntimeError("another")
