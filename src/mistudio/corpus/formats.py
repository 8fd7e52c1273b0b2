"""The file formats of a corpus: .txt, .csv, .json, .jsonl and .parquet, each read as a stream.

A ``.txt`` file of up to 64 KiB is one document. A longer one is cut between paragraphs: a document
ends at the first blank line after 4 KiB of it, or at the end of a line (at worst inside one) once it
has 64 KiB. All other formats hold one document a record.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.corpus.documents import (
    BROKEN,
    LABEL_NAMES,
    MAX_RECORD_BYTES,
    RECORDS_SEEN,
    TASK_NAMES,
    TEXT_NAMES,
    TOO_LONG,
    Columns,
    Document,
    Row,
    columns_of,
    documents_of,
    why_dropped,
)
from mistudio.corpus.lines import read_lines, read_whole_lines, unreadable
from mistudio.corpus.parquet_pages import largest_page_bytes
from mistudio.errors import CorpusError
from mistudio.guarded_json import MAX_FILE_BYTES, parse_json
from mistudio.plain_text import shortened, without_surrogates

WHOLE_TEXT_BYTES = 64 * 1024
_PARAGRAPHS_BYTES = 4 * 1024
MAX_JSON_BYTES = MAX_FILE_BYTES
_MAX_FIELD_CHARS = 2**31 - 1
MAX_PAGE_BYTES = 512 * 1024 * 1024  # of a page of Parquet, unpacked: more than that are values, not many of them
_PARQUET_BYTES = 64 * 1024 * 1024
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


def _task(path: Path) -> str:
    """The task of documents that state none."""
    return without_surrogates(path.stem)


def _text_documents(path: Path, origin: str, columns: Columns, dropped: "Counter[str] | None") -> Iterator[Document]:
    if columns != Columns():
        message = f"{origin} is plain text and has no columns: leave the column names out."
        raise CorpusError(message)
    for text in _text_pieces(path, origin):
        reason = why_dropped(text)
        if reason is None:
            yield Document(text, _task(path))
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
    lines = _RecordLines(path, origin)
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        if len(header) == 1 and any(separator in header[0] for separator in ";\t|"):
            message = f"{origin} does not separate its columns with commas: its header is {shortened(header[0])}."
            raise CorpusError(message)
        found = columns.resolve(header, header, origin)
        _check_header(header, columns, origin)
        yield from documents_of(_csv_rows(reader, lines, header, origin), found, origin, _task(path), dropped)
    except csv.Error as error:
        message = f"{origin}, line {reader.line_num}: broken CSV ({error})."
        raise CorpusError(message) from error


class _RecordLines:
    """The lines of a CSV file, bounded by record: a field between quotes, and with it a record, spans many lines."""

    def __init__(self, path: Path, origin: str) -> None:
        self._lines = read_whole_lines(path, origin, MAX_RECORD_BYTES)
        self._origin = origin
        self._num_characters = 0

    def __iter__(self) -> "_RecordLines":
        return self

    def __next__(self) -> str:
        number, text = next(self._lines)
        self._num_characters += len(text or "")
        if text is None or self._num_characters > MAX_RECORD_BYTES:
            message = (
                f"{self._origin}, line {number}: the record has more than {MAX_RECORD_BYTES:,} bytes, the most that a "
                "record may have. Look for a quote that is never closed, or leave the record out."
            )
            raise CorpusError(message)
        return text

    def end_record(self) -> None:
        """Count anew."""
        self._num_characters = 0


def _check_header(header: list[str], columns: Columns, origin: str) -> None:
    """Refuse a first line that may well be a document: it would be lost in silence.

    Raises:
        CorpusError: no name in it is known or was given.
    """
    is_named = columns.text is not None or any(
        name.casefold() in (*TEXT_NAMES, *LABEL_NAMES, *TASK_NAMES, columns.label, columns.task) for name in header
    )
    if header and not is_named:
        first = shortened(header[0])
        message = (
            f"{origin} begins with {first}, which is the name of a column if the file has a header, and else its "
            f"first text. If it is a name, give it (--text-column); if not, put a line with {TEXT_NAMES[0]} before it."
        )
        raise CorpusError(message)


def _csv_rows(reader: Any, lines: _RecordLines, header: list[str], origin: str) -> Iterator[Row]:
    for fields in reader:
        lines.end_record()
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
    return _record_documents(_jsonl_rows(path, origin, dropped), path, origin, columns, dropped)


def _jsonl_rows(path: Path, origin: str, dropped: "Counter[str] | None") -> Iterator[Row]:
    for number, text in read_whole_lines(path, origin, MAX_RECORD_BYTES):
        if text is None:
            if dropped is not None:
                dropped[TOO_LONG] += 1
            continue
        if text.isspace():
            continue
        try:
            value = parse_json(text, finite=False)
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
        records = _json_list(parse_json(text, finite=False), origin)
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
    yield from documents_of(chain(first, rows), found, origin, _task(path), dropped)


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
            rows = _parquet_rows(table, found.used, _rows_at_once(path, found.used, origin), dropped)
            yield from documents_of(rows, found, origin, _task(path), dropped)
    except FileNotFoundError as error:
        raise CorpusError(unreadable(origin, error)) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(_no_parquet(origin, error)) from error


def _rows_at_once(path: Path, names: list[str], origin: str) -> int:
    """How many rows may be held at a time, whatever is in them.

    Raises:
        CorpusError: a page alone is too large, or damaged.
    """
    try:
        largest = largest_page_bytes(path, names)
    except ValueError as error:
        raise CorpusError(_no_parquet(origin, error)) from error
    if largest > MAX_PAGE_BYTES:
        message = (
            f"{origin} has a page of {largest:,} bytes when unpacked; at most {MAX_PAGE_BYTES:,} are read. "
            "Leave out the record that is so large, or write the file with smaller pages."
        )
        raise CorpusError(message)
    return min(max(_PARQUET_BYTES // max(largest, 1), 1), _PARQUET_ROWS)


def _parquet_rows(
    table: pq.ParquetFile, names: list[str], rows_at_once: int, dropped: "Counter[str] | None"
) -> Iterator[Row]:
    start = 1
    for batch in table.iter_batches(rows_at_once, columns=names):
        if batch.num_rows == 1 and _value_bytes(batch) > MAX_RECORD_BYTES:
            if dropped is not None:
                dropped[TOO_LONG] += 1
        else:
            yield from _batch_rows(batch, start, dropped)
        start += batch.num_rows


def _batch_rows(batch: pa.RecordBatch, start: int, dropped: "Counter[str] | None") -> Iterator[Row]:
    """The rows of a batch, but those whose texts are not UTF-8, which Parquet does not see to."""
    try:
        yield from [Row(f"row {start + place}", values) for place, values in enumerate(batch.to_pylist())]
    except UnicodeDecodeError:
        if batch.num_rows > 1:
            for place in range(batch.num_rows):
                yield from _batch_rows(batch.slice(place, 1), start + place, dropped)
        elif dropped is not None:
            dropped[BROKEN] += 1


def _value_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of the values of a batch, without entries of dictionaries that none of them is."""
    columns = (each.dictionary_decode() if pa.types.is_dictionary(each.type) else each for each in batch.columns)
    return sum(column.nbytes for column in columns)


def _no_parquet(origin: str, error: Exception) -> str:
    return f"{origin} is not a whole Parquet file ({error}). It may be truncated: copy it again."


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
