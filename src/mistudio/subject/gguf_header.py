"""The header of a GGUF file: what it says of the model, its tokenizer and its tensors; no weights are read.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The reader of the ``gguf`` package makes several
arrays for each token of the vocabulary, which takes seconds; this one takes each value as it lies in the file. Every
length is held against what is left of the file, so that a damaged file is refused and not walked through.
"""

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mistudio.artifacts.hashing import file_state
from mistudio.errors import SubjectError
from mistudio.plain_text import shortened, without_surrogates

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32
_MOST_DIMENSIONS = 8
_MOST_NESTED = 4  # arrays in arrays; no key that is known has any
# What a tokenizer is made from beside the keys of the file; to be raised when it is made otherwise.
_TOKENIZER_VERSION = 1


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in the file, and in which of ggml's types."""

    name: str
    shape: tuple[int, ...]  # the axis that lies together last, as torch has it
    type_number: int
    offset: int  # of its first byte, from the start of the tensors

    @property
    def num_weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its weights.

    Attributes:
        metadata: value by key, arrays as lists.
        tensors: in the order of the file.
        data_start: where the tensors begin, in bytes.
        tokenizer_digest: names the content of the keys that the tokenizer is made from.
    """

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_start: int
    tokenizer_digest: str

    @property
    def architecture(self) -> str:
        """The architecture, by llama.cpp's name."""
        return str(self.metadata["general.architecture"])


def is_gguf_file(path: Path) -> bool:
    """Whether a file begins as GGUF files do, whatever its name: Ollama's have no suffix."""
    try:
        with path.open("rb") as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file; read once in a process, as long as the file stays the same.

    Raises:
        SubjectError: it cannot be read, is no GGUF file, is damaged, or is a part of a model.
    """
    try:
        return _read_once(str(path), path.stat().st_size, file_state(path))
    except OSError as error:
        message = f"{without_surrogates(str(path))} cannot be read: {error.strerror or error}."
        raise SubjectError(message) from error


@lru_cache(maxsize=4)
def _read_once(path: str, size: int, state: tuple[int, ...]) -> GgufHeader:
    shown = without_surrogates(path)
    with open(path, "rb") as handle:
        if size < len(MAGIC) or handle.read(len(MAGIC)) != MAGIC:
            message = f"{shown} is no GGUF file: it does not begin with GGUF. Give a model in GGUF format, or a folder."
            raise SubjectError(message)
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _parse(data, shown)
            except (struct.error, UnicodeDecodeError, _Damaged) as error:
                message = (
                    f"{shown} is damaged: its header ends early or makes no sense ({error}). Download or convert it "
                    "again."
                )
                raise SubjectError(message) from error
    _check_whole(header, size, shown)
    return header


class _Damaged(Exception):
    """A value that no file can have."""


class _Cursor:
    """A place in the file, moved by what is read."""

    def __init__(self, data: mmap.mmap, position: int) -> None:
        self.data = data
        self.position = position

    def number(self, form: str) -> Any:
        value = struct.unpack_from(f"<{form}", self.data, self.position)[0]
        self.position += struct.calcsize(f"<{form}")
        return value

    def numbers(self, form: str, count: int) -> list[Any]:
        self.check(count * struct.calcsize(f"<{form}"))
        values = struct.unpack_from(f"<{count}{form}", self.data, self.position)
        self.position += count * struct.calcsize(f"<{form}")
        return list(values)

    def text(self) -> str:
        length = self.number("Q")
        self.check(length)
        start, self.position = self.position, self.position + length
        return self.data[start : self.position].decode("utf-8")

    def check(self, num_bytes: int) -> None:
        if num_bytes > len(self.data) - self.position:
            message = f"{num_bytes:,} bytes from byte {self.position:,} on, of {len(self.data):,}"
            raise _Damaged(message)

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _FORMATS:
            return self.number(_FORMATS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            message = f"a value of type {kind}"
            raise _Damaged(message)
        if depth >= _MOST_NESTED:
            message = f"arrays more than {_MOST_NESTED} deep in each other at byte {self.position:,}"
            raise _Damaged(message)
        inner, count = self.number("I"), self.number("Q")
        if inner in _FORMATS:
            return self.numbers(_FORMATS[inner], count)
        self.check(8 * count)
        return [self.value(inner, depth + 1) for _ in range(count)]


def _parse(data: mmap.mmap, shown: str) -> GgufHeader:
    cursor = _Cursor(data, len(MAGIC))
    version = cursor.number("I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        which = "for machines of the other byte order" if swapped in _VERSIONS else f"of version {version}"
        message = (
            f"{shown} is a GGUF file {which}; versions {_VERSIONS[0]} and {_VERSIONS[1]}, little-endian, are read."
        )
        raise SubjectError(message)
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    raw: dict[str, bytes] = {}
    for _ in range(num_keys):
        key = cursor.text()
        start = cursor.position
        metadata[key] = cursor.value(cursor.number("I"))
        if key.startswith("tokenizer."):
            raw[key] = data[start : cursor.position]
    if not isinstance(metadata.get("general.architecture"), str):
        message = f"{shown} does not say which architecture it is of (general.architecture): it holds no model."
        raise SubjectError(message)
    tensors = tuple(_tensors(cursor, num_tensors))
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        message = f"general.alignment {shortened(alignment)}"
        raise _Damaged(message)
    start = -(-cursor.position // alignment) * alignment
    return GgufHeader(metadata, tensors, start, _tokenizer_digest(metadata["general.architecture"], raw))


def _tensors(cursor: _Cursor, count: int) -> Iterator[GgufTensor]:
    for _ in range(count):
        name, num_dimensions = cursor.text(), cursor.number("I")
        if num_dimensions > _MOST_DIMENSIONS:
            message = f"a tensor of {num_dimensions} dimensions"
            raise _Damaged(message)
        shape = tuple(reversed(cursor.numbers("Q", num_dimensions)))
        yield GgufTensor(name, shape, cursor.number("I"), cursor.number("Q"))


def _tokenizer_digest(architecture: str, raw: dict[str, bytes]) -> str:
    """The same for all quantisations of a model; how pieces are put together depends on the architecture too."""
    digest = hashlib.sha256(f"gguf tokenizer {_TOKENIZER_VERSION} {architecture}".encode())
    for key, value in sorted(raw.items()):
        digest.update(f"{len(key)} {key} {len(value)} ".encode())
        digest.update(value)
    return digest.hexdigest()


def _check_whole(header: GgufHeader, size: int, shown: str) -> None:
    """Refuse a file that lacks tensors.

    Raises:
        SubjectError: it is one part of several, holds none, or ends before the last of them.
    """
    num_parts = header.metadata.get("split.count", 1)
    if not isinstance(num_parts, int):
        message = (
            f"{shown} is damaged: split.count is {shortened(num_parts)}, and a whole number is expected. Download or "
            "convert it again."
        )
        raise SubjectError(message)
    if num_parts > 1:
        message = (
            f"{os.path.basename(shown)} is one of {num_parts} parts of a model, and models in "
            "parts are not read. Put them together with llama.cpp: llama-gguf-split --merge FIRST-PART WHOLE.gguf"
        )
        raise SubjectError(message)
    if not header.tensors:
        message = f"{shown} holds no weights, only a vocabulary or an adapter. Give the file of the whole model."
        raise SubjectError(message)
    last = max(header.tensors, key=lambda tensor: tensor.offset)
    if header.data_start + last.offset >= size:
        message = f"{shown} is cut off: {last.name} would begin past its end ({size:,} bytes). Download it again."
        raise SubjectError(message)
