"""Lines of UTF-8 text files, with the place of a byte that is not UTF-8."""

import codecs
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mistudio.errors import CorpusError


class Line(NamedTuple):
    """One line with its end of line, or a piece of a line that is longer than the limit."""

    number: int  # from 1
    text: str


def read_lines(path: Path, origin: str, max_bytes: int = -1) -> Iterator[Line]:
    """Stream the lines of a UTF-8 file; a line longer than ``max_bytes`` comes in pieces.

    A byte order mark at the start is skipped.

    Raises:
        CorpusError: the file is not UTF-8, or cannot be read.
    """
    try:
        with path.open("rb") as handle:
            yield from _decoded(handle, origin, max_bytes)
    except OSError as error:
        raise CorpusError(unreadable(origin, error)) from error


def read_whole_lines(path: Path, origin: str, max_bytes: int) -> Iterator[tuple[int, str | None]]:
    """Stream the lines of a UTF-8 file with their numbers; of one longer than ``max_bytes`` there is None.

    Such a line is read over in pieces, so that no more than two of them are held.

    Raises:
        CorpusError: the file is not UTF-8, or cannot be read.
    """
    for number, pieces in groupby(read_lines(path, origin, max_bytes), key=lambda piece: piece.number):
        yield number, _whole_text(pieces)


def _whole_text(pieces: Iterator[Line]) -> str | None:
    """The text of a line, unless more of it follows its first piece."""
    text = next(pieces).text
    is_longer = not text.endswith("\n") and any(piece.text for piece in pieces)
    return None if is_longer else text


def unreadable(origin: str, error: OSError) -> str:
    """The message for a file that the operating system does not let us read."""
    return f"Cannot read {origin}: {error.strerror or error}."


def _decoded(handle: BinaryIO, origin: str, max_bytes: int) -> Iterator[Line]:
    offset = len(codecs.BOM_UTF8) if handle.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    handle.seek(offset)
    decoder = codecs.getincrementaldecoder("utf-8")()
    number = 1
    while True:
        piece = handle.readline(max_bytes)
        pending: bytes = decoder.getstate()[0]  # the start of a character that the last piece cut in two
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            bad = offset - len(pending) + error.start
            message = (
                f"{origin} is not UTF-8 text: byte 0x{error.object[error.start]:02x} on line {number} "
                f"(byte {bad:,} of the file). Convert the file, for example with iconv -t UTF-8."
            )
            raise CorpusError(message) from error
        if not piece:
            return
        yield Line(number, text)
        offset += len(piece)
        number += piece.endswith(b"\n")
