"""Which device a subject runs on, and in which number format."""

from dataclasses import dataclass

import psutil
import torch

from mistudio.errors import SubjectError


@dataclass(frozen=True)
class Gpu:
    """One CUDA device as its driver describes it; memory in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    compute_capability: str


def list_gpus() -> list[Gpu]:
    """The CUDA devices that answer; one whose query fails is left out."""
    found = (_query(index) for index in range(torch.cuda.device_count()))
    return [gpu for gpu in found if gpu is not None]


def pick_device(device: str, needed_bytes: int | None = None) -> torch.device:
    """The device to use: auto is the GPU with the most free memory, else the CPU.

    Args:
        device: auto, cpu, cuda (the GPU with the most free memory) or cuda:N.
        needed_bytes: with auto, a GPU with less free memory than this is passed over.

    Raises:
        SubjectError: a GPU was asked for that is not there.
    """
    if device == "cpu":
        return torch.device("cpu")
    gpus = list_gpus()
    if device in ("auto", "cuda"):
        best = max(gpus, key=lambda gpu: gpu.free_bytes, default=None)
        enough = best is not None and (device == "cuda" or best.free_bytes >= (needed_bytes or 0))
        if best is not None and enough:
            return torch.device("cuda", best.index)
        if device == "auto":
            return torch.device("cpu")
    for gpu in gpus:
        if device == f"cuda:{gpu.index}":
            return torch.device(device)
    there = ", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in gpus)
    message = f"There is no device {device!r}; this machine has cpu{' and ' + there if there else ', and no GPU'}."
    raise SubjectError(message)


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """The number format to use; auto is float32 on CPU, bfloat16 on a GPU that has it, else float16."""
    if dtype != "auto":
        return dtype
    if device.type != "cuda":
        return "float32"
    major, _ = torch.cuda.get_device_capability(device)
    return "bfloat16" if major >= 8 else "float16"


def free_memory_bytes(device: torch.device) -> int:
    """Memory that a new allocation on ``device`` can use, in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return int(psutil.virtual_memory().available)


def _query(index: int) -> Gpu | None:
    try:
        free, total = torch.cuda.mem_get_info(index)
        properties = torch.cuda.get_device_properties(index)
    except RuntimeError:
        return None
    capability = f"{properties.major}.{properties.minor}"
    return Gpu(index, properties.name, int(total), int(free), capability)
