"""The Triton kernels: against the references in Triton's interpreter or on a GPU, and through Triton's compiler.

The interpreter accepts what the compiler refuses, so both have their say. Without a GPU, kernels are compiled to
machine code all the same, as the library launches them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mistudio.errors import ConfigError
from mistudio.sae import backend
from mistudio.sae.backend import serves_triton

CHECKS = Path(__file__).with_name("triton_checks.py")
ON_GPU: Any = SimpleNamespace(is_cuda=True)
ON_CPU = torch.zeros(1)

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
needs_compiler = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set")


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MISTUDIO_TRITON", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    cached = backend._problem
    cached.cache_clear()
    yield
    cached.cache_clear()


def run_checks(tmp_path: Path, **env: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)],
        env=inherited | {"TRITON_CACHE_DIR": str(tmp_path)} | env,
        cwd=CHECKS.parents[3],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@needs_triton
def test_kernels_agree_with_the_references_in_the_interpreter(tmp_path: Path) -> None:
    run_checks(tmp_path, TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@needs_triton
def test_kernels_agree_with_the_references_on_a_gpu(tmp_path: Path) -> None:
    run_checks(tmp_path)


class NoDevice:
    """As much of a driver as compiling asks for; its device is none that a real one has."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return -1

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """Names of the kernels that were compiled to machine code; launches compile and do nothing else."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    names: set[str] = set()
    compile_and_launch = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = compile_and_launch(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel.asm["cubin"]:
            names.add(self.__name__)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", NoDevice())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    return names


@needs_triton
@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "width"),
    [
        (torch.float32, torch.float32, 768),
        (torch.float32, torch.bfloat16, 64),
        (torch.float64, torch.float64, 1),
    ],
)
def test_products_compile_for_a_gpu(
    dtype: torch.dtype, weight_dtype: torch.dtype, width: int, compiled: set[str]
) -> None:
    from mistudio.sae import triton_kernels

    pairs = 512
    index_A, weights_A = torch.zeros(pairs, dtype=torch.int32), torch.zeros(pairs, dtype=dtype)
    x_TD, weight_FD = torch.zeros(4, width, dtype=dtype), torch.zeros(4, width, dtype=weight_dtype)
    triton_kernels.bag_sums(index_A, weights_A, index_A[:4], weight_FD)
    triton_kernels.split_bag_sums(index_A, weights_A, index_A[:4], index_A, x_TD)
    triton_kernels.pair_products(index_A, x_TD, index_A, weight_FD)
    assert compiled == {"_bag_sums", "_piece_sums", "_products"}


@needs_triton
@needs_compiler
@pytest.mark.parametrize(
    ("width", "k", "dtype", "names"),
    [
        (4096, 32, torch.float32, {"_select"}),
        (50_000, 64, torch.bfloat16, {"_select", "_group_maxima"}),
        (1 << 18, 512, torch.float32, {"_select", "_group_maxima"}),
    ],
)
def test_selection_compiles_for_a_gpu(
    width: int, k: int, dtype: torch.dtype, names: set[str], compiled: set[str]
) -> None:
    from mistudio.sae import triton_selection

    triton_selection.top_indices(torch.zeros(1, width, dtype=dtype), k)
    assert compiled == names


def test_a_cpu_has_no_triton_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not serves_triton(ON_CPU)
    monkeypatch.setenv("MISTUDIO_TRITON", "1")
    assert not serves_triton(ON_CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert serves_triton(ON_CPU)


def test_triton_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_problem", lambda: "")
    assert serves_triton(ON_GPU)
    monkeypatch.setenv("MISTUDIO_TRITON", "0")
    assert not serves_triton(ON_GPU)


def test_without_triton_pytorch_serves_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert not serves_triton(ON_GPU)
    monkeypatch.setenv("MISTUDIO_TRITON", "1")
    with pytest.raises(ConfigError, match="Triton cannot serve the GPU"):
        serves_triton(ON_GPU)


def test_a_triton_that_does_not_work_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            message = "Failed to find C compiler"
            raise RuntimeError(message)

    monkeypatch.setitem(sys.modules, "triton", Broken())
    with pytest.warns(UserWarning, match="Failed to find C compiler"):
        assert not serves_triton(ON_GPU)


def test_another_value_of_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRITON", "yes")
    with pytest.raises(ConfigError, match="MISTUDIO_TRITON is 'yes'"):
        serves_triton(ON_CPU)
