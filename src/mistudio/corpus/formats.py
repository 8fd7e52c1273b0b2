"""The file formats of a corpus: .txt, .csv, .json, .jsonl and .parquet, each read as a stream.

A ``.txt`` file of up to 64 KiB is one document. A longer one is cut between paragraphs: a document
ends at the first blank line after 4 KiB of it, or at the end of a line (at worst inside one) once it
has 64 KiB. All other formats hold one document a record.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.corpus.documents import RECORDS_SEEN, Columns, Document, Row, columns_of, documents_of, why_dropped
from mistudio.corpus.lines import read_lines, unreadable
from mistudio.errors import CorpusError

WHOLE_TEXT_BYTES = 64 * 1024
_PARAGRAPHS_BYTES = 4 * 1024
MAX_JSON_BYTES = 256 * 1024 * 1024
_MAX_FIELD_CHARS = 2**31 - 1
_MOST_CHARACTERS_SEEN = 1 << 24
_PARQUET_ROWS = 1024


def read_documents(
    path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None" = None
) -> Iterator[Document]:
    """Stream the documents of one file; ``origin`` names it in errors.

    Raises:
        CorpusError: the file is broken, of a format that is not read, or has no usable text column.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        message = f"{origin} is not of a format that can be read: use {', '.join(READERS)}."
        raise CorpusError(message)
    return reader(path, origin, columns, dropped)


def _text_documents(path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None") -> Iterator[Document]:
    if columns != Columns():
        message = f"{origin} is plain text and has no columns: leave the column names out."
        raise CorpusError(message)
    for text in _text_pieces(path, origin):
        reason = why_dropped(text)
        if reason is None:
            yield Document(text, path.stem)
        elif dropped is not None:
            dropped[reason] += 1


def _text_pieces(path: Path, origin: str) -> Iterator[str]:
    """The documents of a text file, by the rule at the top of this module."""
    whole = path.stat().st_size <= WHOLE_TEXT_BYTES
    piece: list[str] = []
    size = 0
    for line in read_lines(path, origin, WHOLE_TEXT_BYTES):
        piece.append(line.text)
        size += len(line.text.encode())
        enough = WHOLE_TEXT_BYTES if line.text.strip() else _PARAGRAPHS_BYTES
        if size >= enough and not whole:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _csv_documents(path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None") -> Iterator[Document]:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader((line.text for line in read_lines(path, origin)), strict=True)
    try:
        header = next(reader, [])
        if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
            message = f"{origin} does not separate its columns with commas: its header is {header[0]!r}."
            raise CorpusError(message)
        found = columns.resolve(header, header, origin)
        yield from documents_of(_csv_rows(reader, header, origin), found, origin, path.stem, dropped)
    except csv.Error as error:
        message = f"{origin}, line {reader.line_num}: broken CSV ({error})."
        raise CorpusError(message) from error


def _csv_rows(reader: Any, header: list[str], origin: str) -> Iterator[Row]:
    for fields in reader:
        if not fields:
            continue
        if len(fields) != len(header):
            message = (
                f"{origin}, line {reader.line_num}: {len(fields)} fields where the header names {len(header)} "
                "columns. Put text that holds commas or quotes between double quotes."
            )
            raise CorpusError(message)
        yield Row(f"line {reader.line_num}", dict(zip(header, fields, strict=True)))


def _jsonl_documents(path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None") -> Iterator[Document]:
    return _record_documents(_jsonl_rows(path, origin), path, origin, columns, dropped)


def _jsonl_rows(path: Path, origin: str) -> Iterator[Row]:
    for number, text in read_lines(path, origin):
        if text.isspace():
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            message = f"{origin}, line {number}: broken JSON ({error}). Each line has to be one JSON object."
            raise CorpusError(message) from error
        yield _row(value, origin, f"line {number}")


def _json_documents(path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None") -> Iterator[Document]:
    if path.stat().st_size > MAX_JSON_BYTES:
        message = (
            f"{origin} has {path.stat().st_size:,} bytes; a .json file is read whole and may have at most "
            f"{MAX_JSON_BYTES:,}. Write one record a line in a .jsonl file: that is streamed."
        )
        raise CorpusError(message)
    text = "".join(line.text for line in read_lines(path, origin))
    try:
        records = _json_list(json.loads(text), origin)
    except ValueError as error:
        hint = " If it holds one record a line, name it .jsonl." if "Extra data" in str(error) else ""
        message = f"{origin} is broken JSON ({error}).{hint}"
        raise CorpusError(message) from error
    rows = (_row(value, origin, f"record {number}") for number, value in enumerate(records, start=1))
    return _record_documents(rows, path, origin, columns, dropped)


def _json_list(value: object, origin: str) -> list[object]:
    """The records of a JSON file: the list that it is, or the one list in the object that it is."""
    lists = [value] if isinstance(value, list) else []
    if isinstance(value, dict):
        lists = [member for member in value.values() if isinstance(member, list)]
    if len(lists) != 1:
        message = (
            f"{origin} has to be a list of records, or an object with one list; "
            f"it is {type(value).__name__} with {len(lists)} lists. "
            "Take it out of the folder if it is no part of the corpus."
        )
        raise CorpusError(message)
    return lists[0]


def _row(value: object, origin: str, where: str) -> Row:
    """A record as a row; a bare string is the text itself."""
    if isinstance(value, str):
        return Row(where, {"text": value})
    if not isinstance(value, Mapping):
        message = f"{origin}, {where}: a record has to be an object or a string, not {type(value).__name__}."
        raise CorpusError(message)
    return Row(where, value)


def _record_documents(
    rows: Iterator[Row], path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None"
) -> Iterator[Document]:
    """Documents of records without a schema: the columns are those of many records, for the first may lack some."""
    first = _first_records(rows)
    if not first:
        return
    names, strings = columns_of([row.values for row in first], columns)
    found = columns.resolve(names, strings, origin)
    yield from documents_of(chain(first, rows), found, origin, path.stem, dropped)


def _first_records(rows: Iterator[Row]) -> list[Row]:
    """The first records, as many as tell the columns and fit in little memory."""
    first: list[Row] = []
    num_characters = 0
    for row in islice(rows, RECORDS_SEEN):
        first.append(row)
        num_characters += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if num_characters > _MOST_CHARACTERS_SEEN:
            break
    return first


def _parquet_documents(path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None") -> Iterator[Document]:
    try:
        with pq.ParquetFile(path) as table:
            schema = table.schema_arrow
            found = columns.resolve(schema.names, [field.name for field in schema if _is_text(field.type)], origin)
            yield from documents_of(_parquet_rows(table, found.used), found, origin, path.stem, dropped)
    except FileNotFoundError as error:
        raise CorpusError(unreadable(origin, error)) from error
    except (pa.ArrowException, OSError) as error:
        message = f"{origin} is not a whole Parquet file ({error}). It may be truncated: copy it again."
        raise CorpusError(message) from error


def _parquet_rows(table: pq.ParquetFile, names: list[str]) -> Iterator[Row]:
    start = 1
    for batch in table.iter_batches(_PARQUET_ROWS, columns=names):
        for number, values in enumerate(batch.to_pylist(), start=start):
            yield Row(f"row {number}", values)
        start += batch.num_rows


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value))


_Reader = Callable[[Path, str, Columns, "Counter[str] | None"], Iterator[Document]]

READERS: dict[str, _Reader] = {
    ".txt": _text_documents,
    ".csv": _csv_documents,
    ".json": _json_documents,
    ".jsonl": _jsonl_documents,
    ".parquet": _parquet_documents,
}
