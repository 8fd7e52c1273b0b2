"""The entries of Neuronpedia's exports: JSON Lines, packed or not, or one list; read within bounds."""

import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from mistudio.errors import InputError
from mistudio.guarded_json import MAX_FILE_BYTES, RefusedJSON, parse_json

MAX_RECORD_BYTES = 16 * 1024 * 1024  # of a line, and with it of an entry
MAX_UNPACKED_BYTES = 2 * 1024 * 1024 * 1024  # of a file
_GZIP = b"\x1f\x8b"


def read_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Each entry of a file, and where it stands.

    Raises:
        InputError: it is no JSON, badly packed, or larger than is read.
    """
    with path.open("rb") as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
    number = 0
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            for number, line in _lines(file, path):
                if number == 1 and line.lstrip().startswith(b"["):
                    for entry, row in enumerate(_list(line, file), start=1):
                        yield f"entry {entry} of {path}", row
                    return
                _check_size(len(line), MAX_RECORD_BYTES, f"line {number} of {path}")
                if line.strip():
                    yield f"line {number} of {path}", parse_json(line, finite=False)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"{path} is damaged after line {number}: {error}. Download it again."
        raise InputError(message) from error
    except ValueError as error:
        claims = "" if packed or path.suffix != ".gz" else "no gzip file and "
        message = (
            f"{path} is {claims}no JSON at line {max(number, 1)}: {error}. Give Neuronpedia's export of explanations."
        )
        raise InputError(message) from error


def _lines(file: io.BufferedIOBase, path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with their numbers, the first piece of one that is too long.

    Raises:
        InputError: it unpacks to more than is read.
    """
    num_bytes = 0
    for number in count(1):
        line = file.readline(MAX_RECORD_BYTES + 1)
        if not line:
            return
        num_bytes += len(line)
        _check_size(num_bytes, MAX_UNPACKED_BYTES, str(path))
        yield number, line


def _list(line: bytes, file: io.BufferedIOBase) -> list[Any]:
    """The entries of a file that is one list, of which a line is read."""
    content = line + file.read(max(MAX_FILE_BYTES + 1 - len(line), 0))
    if len(content) > MAX_FILE_BYTES:
        message = f"a list has more than {MAX_FILE_BYTES:,} bytes, the most that is read; write one entry a line"
        raise RefusedJSON(message)
    entries: list[Any] = parse_json(content, finite=False)
    return entries


def _check_size(num_bytes: int, most: int, what: str) -> None:
    if num_bytes > most:
        message = (
            f"{what} has more than {most:,} bytes, unpacked if it is packed: that is the most that is read. Give "
            "Neuronpedia's export of explanations as it is."
        )
        raise InputError(message)
