"""Which device a subject runs on, and in which number format.

A recipe holds the number format, so a step asks for it before it knows whether its artifact is there already. Where
there is no driver of a GPU the answer takes no torch, whose import would be most of such a step's time.
"""

import ctypes
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mistudio.errors import SubjectError
from mistudio.plain_text import shortened
from mistudio.subject.config import SubjectConfig

if TYPE_CHECKING:
    import torch

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")  # every CUDA program loads one of them, torch too
_ROCM_DEVICE = Path("/dev/kfd")


@dataclass(frozen=True)
class Gpu:
    """One CUDA device as its driver describes it; memory in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str


def has_gpu_driver() -> bool:
    """Whether there can be a GPU at all; takes no torch."""
    for name in _DRIVERS:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return _ROCM_DEVICE.exists()


def list_gpus() -> list[Gpu]:
    """The CUDA devices that answer; one whose query fails is left out."""
    if not has_gpu_driver():
        return []
    import torch

    found = (_query(index) for index in range(torch.cuda.device_count()))
    return [gpu for gpu in found if gpu is not None]


def device_name(device: str, needed_bytes: int | None = None) -> str:
    """The device to use: auto is the GPU with the most free memory, else the CPU.

    Args:
        device: auto, cpu, cuda (the GPU with the most free memory) or cuda:N.
        needed_bytes: with auto, a GPU with less free memory than this is passed over.

    Raises:
        SubjectError: a GPU was asked for that is not there.
    """
    if device == "cpu":
        return device
    gpus = list_gpus()
    if device in ("auto", "cuda"):
        best = max(gpus, key=lambda gpu: gpu.free_bytes, default=None)
        enough = best is not None and (device == "cuda" or best.free_bytes >= (needed_bytes or 0))
        if best is not None and enough:
            return f"cuda:{best.index}"
        if device == "auto":
            return "cpu"
    if device in (f"cuda:{gpu.index}" for gpu in gpus):
        return device
    there = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus)
    message = (
        f"There is no device {shortened(device)}; this machine has cpu{' and ' + there if there else ', and no GPU'}."
    )
    raise SubjectError(message)


def pick_device(device: str, needed_bytes: int | None = None) -> "torch.device":
    """The device of :func:`device_name`, as torch wants it."""
    import torch

    return torch.device(device_name(device, needed_bytes))


def resolve_dtype(dtype: str, device: "torch.device | str") -> str:
    """The number format to use; auto is float32 on CPU, bfloat16 on a GPU that has it, else float16."""
    if dtype != "auto":
        return dtype
    if not str(device).startswith("cuda"):
        return "float32"
    import torch

    major, _ = torch.cuda.get_device_capability(device)
    return "bfloat16" if major >= 8 else "float16"


def check_quantization(config: SubjectConfig) -> None:
    """Refuse a quantisation that this machine cannot do; takes no torch.

    Raises:
        SubjectError: the library for it is not installed.
    """
    if config.quantization != "none" and find_spec("bitsandbytes") is None:
        message = (
            f"quantization {config.quantization} needs bitsandbytes, which is not installed: "
            "pip install 'mistudio[quantised]'"
        )
        raise SubjectError(message)


def free_memory_bytes(device: "torch.device") -> int:
    """Memory that a new allocation on ``device`` can use, in bytes."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return int(psutil.virtual_memory().available)


def _query(index: int) -> Gpu | None:
    import torch

    try:
        free, total = torch.cuda.mem_get_info(index)
        properties = torch.cuda.get_device_properties(index)
    except RuntimeError:
        return None
    capability = f"{properties.major}.{properties.minor}"
    return Gpu(index, properties.name, int(total), int(free), capability)
