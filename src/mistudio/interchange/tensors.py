"""Tensors from elsewhere: checked to be plain numbers that can be computed with, and no larger than their file.

A tensor may be sparse, without values, complex, or state a billion numbers where it holds one; packed files may unpack
to a thousand times their size. All that is refused before memory is taken for it.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mistudio.errors import InputError

# Products of three of them, as when biases are folded in, and sums of such products are still finite in float32.
MAX_WEIGHT = 1e9
# Unpacked bytes for each byte of a file: weights hardly pack, beside zeros of dead latents.
MAX_UNPACKED_RATIO = 16
_SMALL_BYTES = 16 * 1024 * 1024  # not worth a question
_MAX_NUMBERS = 64  # of a setting that is kept as a tensor
_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def plain(value: Tensor, name: str, where: Path) -> Tensor:
    """A tensor as contiguous float32 on the CPU.

    Raises:
        InputError: it is not of plain numbers, or one is not finite or too large to compute with.
    """
    problem = _form_problem(value)
    if problem is None:
        value = value.detach().to("cpu", torch.float32).contiguous()
        low, high = (float(edge) for edge in value.aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            problem = "has numbers that are not finite"
        elif max(-low, high) > MAX_WEIGHT:
            problem = f"has numbers above {MAX_WEIGHT:.0e}, too large to compute with"
    if problem is not None:
        message = f"{where}: tensor {name} {problem}; finite numbers are expected."
        raise InputError(message)
    return value


def whole_numbers(value: Tensor, name: str, where: Path) -> list[int]:
    """The numbers of a setting that is kept as a tensor.

    Raises:
        InputError: they are no whole numbers from 0, or too many.
    """
    numbers = plain(value, name, where).flatten().tolist() if value.numel() <= _MAX_NUMBERS else []
    if not numbers or not all(number.is_integer() and number >= 0 for number in numbers):
        message = f"{where}: {name} has to be at most {_MAX_NUMBERS} whole numbers from 0."
        raise InputError(message)
    return [int(number) for number in numbers]


def check_unpacked(path: Path) -> None:
    """Refuse a ZIP archive that unpacks to far more than it is; other files pass.

    Raises:
        InputError: it does.
        zipfile.BadZipFile: it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        num_bytes = sum(info.file_size for info in archive.infolist())
    most = max(MAX_UNPACKED_RATIO * path.stat().st_size, _SMALL_BYTES)
    if num_bytes > most:
        message = (
            f"{path} would unpack to {num_bytes:,} bytes, more than {MAX_UNPACKED_RATIO} times its size, which weights "
            "never do. Download it again, or save it unpacked."
        )
        raise InputError(message)


def read_npz(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """The arrays of an .npz as they are; one of Python objects, which could run code, is refused.

    Args:
        path: the file.
        names: of the arrays that are read; where the file holds others, only the names of all can be relied on.

    Raises:
        InputError: the file is damaged, or is something else.
    """
    try:
        check_unpacked(path)
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if set(infos) != set(names):
                return {name: torch.empty(0) for name in infos}
            return {name: _array(archive, info) for name, info in infos.items()}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise _no_npz(path, error) from error
    except (OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise _no_npz(path, error) from error


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Tensor:
    """One array, whose header states as many numbers as its file has."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            message = f"{info.filename} is of version {version}"
            raise ValueError(message)
        shape, _, dtype = _HEADERS[version](file)
        if dtype.kind not in "fiu" or dtype.itemsize > np.dtype(np.float64).itemsize:
            message = f"{info.filename} holds {str(dtype)[:40]}, not numbers"
            raise ValueError(message)
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            message = f"{info.filename} states another number of values than it holds"
            raise ValueError(message)
    with archive.open(info) as file, np.errstate(over="ignore"):
        array = np.lib.format.read_array(file, allow_pickle=False)
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _no_npz(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path} cannot be read as an .npz of numbers: {str(error)[:200] or type(error).__name__}")


def _form_problem(value: Tensor) -> str | None:
    """Why a tensor cannot be taken as numbers, told without reading any."""
    if value.is_nested or value.layout != torch.strided:
        return "is sparse or nested"
    if value.is_meta or value.is_quantized or value.dtype not in _DTYPES:
        return f"is of {'no values' if value.is_meta else value.dtype}"
    if not value.numel():
        return f"has shape {list(value.shape)}, which holds nothing"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"has shape {list(value.shape)}, but fewer numbers"
    return None
