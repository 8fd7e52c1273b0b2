"""How large the pages of a Parquet file are, from their headers: what reading them will take.

Neither the number of rows nor the size of the file bounds that. A page is decompressed as a whole, and 30 kB of it may
be one value of 1 GB; a value may also lie once in a dictionary and be meant by every row. No value is larger than the
largest page, though, so that the largest page says how many rows can be held at a time. pyarrow does not tell it.

Footer and headers are structs of Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # length of the footer, and the magic
_MAX_FOOTER_BYTES = 64 * 1024 * 1024
# Fields of the footer, of a row group, of a column's chunk, and of what is said of that.
_ROW_GROUPS, _CHUNKS, _ABOUT = 4, 1, 3
_PATH, _CHUNK_VALUES, _FIRST_DATA, _DICTIONARY = 3, 5, 9, 11
# Fields of a page's header, and of its part for data.
_SIZE, _PACKED_SIZE, _DATA_PAGE, _DATA_PAGE_V2 = 2, 3, 5, 8
_PAGE_VALUES = 1
_STOP, _BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LIST, _STRUCT = 0, (1, 2), 3, (4, 5, 6), 7, 8, 9, 12
_LONG_LIST = 15  # the number of elements follows
_MAX_DEPTH = 12
_MAX_VARINT_BYTES = 10
_DOUBLE_BYTES = 8


class _Chunk(NamedTuple):
    """The values of one column in one row group."""

    path: str  # of a nested column with its parts, between dots
    num_values: int
    start: int  # in the file


def largest_page_bytes(path: Path, names: Iterable[str]) -> int:
    """Bytes of the largest page of some columns once it is unpacked; 0 without any.

    Raises:
        ValueError: the footer or a header is damaged.
    """
    wanted, largest = list(names), 0
    with path.open("rb") as file:
        for chunk in _chunks(_read_footer(file)):
            # A name may have dots in it, and a column that is nested has them after its name.
            if any(f"{chunk.path}.".startswith(f"{name}.") for name in wanted):
                largest = max(largest, _largest_of(file, chunk))
    return largest


def _read_footer(file: BinaryIO) -> dict[int, Any]:
    """What the end of the file says of all.

    pyarrow knows that too, but ends the process where some of it is damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _TAIL_BYTES, 0))
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > min(size - _TAIL_BYTES, _MAX_FOOTER_BYTES):
        message = "it has no footer, or one that is too long"
        raise ValueError(message)
    file.seek(size - _TAIL_BYTES - length)
    return _read_struct(io.BytesIO(file.read(length)))


def _chunks(footer: dict[int, Any]) -> Iterator[_Chunk]:
    try:
        for group in footer.get(_ROW_GROUPS, []):
            for each in group[_CHUNKS]:
                about = each[_ABOUT]
                name = b".".join(about[_PATH]).decode()
                start = min(about[field] for field in (_FIRST_DATA, _DICTIONARY) if about.get(field))
                yield _Chunk(name, int(about[_CHUNK_VALUES]), int(start))
    except (KeyError, TypeError, AttributeError) as error:
        message = "its footer does not say where the columns are"
        raise ValueError(message) from error


def _largest_of(file: BinaryIO, chunk: _Chunk) -> int:
    file.seek(chunk.start)
    largest = num_values = 0
    while num_values < chunk.num_values:
        header = _read_struct(file)
        size, packed_size = header.get(_SIZE), header.get(_PACKED_SIZE)
        if not isinstance(size, int) or not isinstance(packed_size, int) or min(size, packed_size) < 0:
            message = "the header of a page states no size"
            raise ValueError(message)
        largest = max(largest, size)
        part = header.get(_DATA_PAGE, header.get(_DATA_PAGE_V2))
        values = part.get(_PAGE_VALUES, 0) if isinstance(part, dict) else 0
        num_values += values if isinstance(values, int) else 0
        file.seek(packed_size, io.SEEK_CUR)
    return largest


def _read_struct(file: BinaryIO, depth: int = 0) -> dict[int, Any]:
    """The values of a struct by the numbers of their fields; None for those that are of no use here."""
    if depth > _MAX_DEPTH:
        message = "its metadata nest too deep"
        raise ValueError(message)
    fields: dict[int, Any] = {}
    field = 0
    while (head := _read_byte(file)) != _STOP:
        kind = head & 0xF
        field = field + (head >> 4) if head >> 4 else _read_integer(file)
        if kind == _BINARY:
            file.seek(_read_varint(file), io.SEEK_CUR)
        elif kind not in _BOOLEANS:  # whose value is their kind
            fields[field] = _read_value(file, kind, depth)
    return fields


def _read_value(file: BinaryIO, kind: int, depth: int) -> Any:
    if kind in _INTEGERS:
        return _read_integer(file)
    if kind == _STRUCT:
        return _read_struct(file, depth + 1)
    if kind == _LIST:
        return _read_list(file, depth + 1)
    if kind == _BINARY:
        return file.read(_read_varint(file))
    if kind in (_BYTE, *_BOOLEANS, _DOUBLE):
        file.seek(_DOUBLE_BYTES if kind == _DOUBLE else 1, io.SEEK_CUR)
        return None
    message = f"its metadata hold a field of kind {kind}"
    raise ValueError(message)


def _read_list(file: BinaryIO, depth: int) -> list[Any]:
    head = _read_byte(file)
    length = head >> 4 if head >> 4 != _LONG_LIST else _read_varint(file)
    if depth > _MAX_DEPTH or length > _MAX_FOOTER_BYTES:
        message = "its metadata hold lists that are too long or too deep"
        raise ValueError(message)
    return [_read_value(file, head & 0xF, depth) for _ in range(length)]


def _read_integer(file: BinaryIO) -> int:
    folded = _read_varint(file)
    return (folded >> 1) ^ -(folded & 1)


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = _read_byte(file)
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 -- the highest bit says that more follow
            return value
    message = "its metadata hold a number without an end"
    raise ValueError(message)


def _read_byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        message = "it ends within its metadata"
        raise ValueError(message)
    return byte[0]
