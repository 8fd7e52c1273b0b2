"""How large the pages of a Parquet file are, from their headers: what reading them will take.

Neither the number of rows nor the size of the file bounds that. A page is decompressed as a whole, and 30 kB of it may
be one value of 1 GB; a value may also lie once in a dictionary and be meant by every row. No value is larger than the
largest page, though, so that the largest page says how many rows can be held at a time. pyarrow does not tell it.

A page header is a struct of Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

_SIZE, _PACKED_SIZE, _DATA_PAGE, _DATA_PAGE_V2 = 2, 3, 5, 8  # fields of a header
_NUM_VALUES = 1  # a field of a data page's part of it
_STOP, _BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _STRUCT = 0, (1, 2), 3, (4, 5, 6), 7, 8, 12
_MAX_DEPTH = 4
_MAX_VARINT_BYTES = 10
_DOUBLE_BYTES = 8


def largest_page_bytes(path: Path, table: pq.ParquetFile, names: Iterable[str]) -> int:
    """Bytes of the largest page of some columns once it is unpacked; 0 without any.

    Raises:
        ValueError: a header is damaged.
    """
    wanted, largest = list(names), 0
    with path.open("rb") as file:
        for group_number in range(table.num_row_groups):
            group = table.metadata.row_group(group_number)
            for number in range(group.num_columns):
                chunk = group.column(number)
                # A name may have dots in it, and a column that is nested has them after its name.
                if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in wanted):
                    largest = max(largest, _largest_of(file, chunk))
    return largest


def _largest_of(file: BinaryIO, chunk: Any) -> int:
    starts = (chunk.data_page_offset, chunk.dictionary_page_offset)
    file.seek(min((start for start in starts if start), default=0))
    largest = num_values = 0
    while num_values < chunk.num_values:
        header = _read_struct(file)
        size, packed_size = header.get(_SIZE), header.get(_PACKED_SIZE)
        if not isinstance(size, int) or not isinstance(packed_size, int) or min(size, packed_size) < 0:
            message = "the header of a page states no size"
            raise ValueError(message)
        largest = max(largest, size)
        part = header.get(_DATA_PAGE, header.get(_DATA_PAGE_V2))
        num_values += part.get(_NUM_VALUES, 0) if isinstance(part, dict) else 0
        file.seek(packed_size, 1)
    return largest


def _read_struct(file: BinaryIO, depth: int = 0) -> dict[int, Any]:
    """The numbers and structs of a struct by the numbers of their fields; what else it has is passed over."""
    fields: dict[int, Any] = {}
    field = 0
    while (head := _read_byte(file)) != _STOP:
        kind = head & 0xF
        field = field + (head >> 4) if head >> 4 else _read_integer(file)
        if kind in _INTEGERS:
            fields[field] = _read_integer(file)
        elif kind == _STRUCT and depth < _MAX_DEPTH:
            fields[field] = _read_struct(file, depth + 1)
        elif kind in (_BYTE, _DOUBLE, _BINARY):
            size = {_BYTE: 1, _DOUBLE: _DOUBLE_BYTES}.get(kind)
            file.seek(_read_varint(file) if size is None else size, 1)
        elif kind not in _BOOLEANS:
            message = f"the header of a page holds a field of kind {kind}"
            raise ValueError(message)
    return fields


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
    message = "the header of a page holds a number without an end"
    raise ValueError(message)


def _read_byte(file: BinaryIO) -> int:
    byte = file.read(1)
    if not byte:
        message = "the file ends within the header of a page"
        raise ValueError(message)
    return byte[0]
