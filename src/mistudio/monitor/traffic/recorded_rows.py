"""Rows of recorded traffic as events: what KServe's logger writes to a bucket, and CloudEvents, one a line.

KServe's logger writes what it would send, a row an event, in one of three formats. Names and types differ between its
versions, so that all of these are read: columns as ``reqType``, ``req_type`` and ``ReqType``; a body as bytes or in
base64; metadata as a map or as JSON. Rows have no time.
(kserve/kserve pkg/logger: marshaller/parquet.go, marshaller_record.go, marshaller_json.go, marshaller/csv.go.)
"""

import csv
import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.corpus.lines import read_whole_lines
from mistudio.corpus.parquet_pages import largest_page_bytes
from mistudio.errors import CorpusError
from mistudio.guarded_json import RefusedJSON, parse_json, parse_json_file
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import KINDS, EventRefused, LoggedEvent, logged_event, structured_event

BROKEN_ROW, OTHER_TYPE, BROKEN_FILE, TOO_LARGE_FILE = "broken_row", "other_type", "broken_file", "too_large_file"
_PARQUET_BYTES = 64 * 1024 * 1024
_PARQUET_ROWS = 1024
_MAX_PAGE_BYTES = 512 * 1024 * 1024
_NAMES = {
    "id": "id",
    "reqtype": "type",
    "bytes": "bytes",
    "contenttype": "content_type",
    "sourceuri": "source",
    "inferenceservice": "inferenceservicename",
    "namespace": "namespace",
    "component": "component",
    "endpoint": "endpoint",
    "metadata": "metadata",
}

Row: TypeAlias = Mapping[str, Any]
Told: TypeAlias = Callable[[str, str], None]  # a reason, and a message about one case of it


class BrokenFile(ValueError):
    """A file is not what its name says, or passes a bound."""


def events_in(path: Path, suffix: str, settings: TrafficSettings, time: float, told: Told) -> Iterator[LoggedEvent]:
    """The events of a file, in its order.

    Args:
        path: of the file.
        suffix: which says its format.
        settings: bounds.
        time: of events that have none; seconds since 1970.
        told: called for what cannot be read.

    Raises:
        BrokenFile: it cannot be read, or not on.
    """
    for number, row in enumerate(_ROWS[suffix](path, settings), start=1):
        try:
            is_own = isinstance(row, dict) and "specversion" in row
            event = structured_event(row, settings, time) if is_own else _event(row, settings, time)
        except (EventRefused, ValueError, TypeError) as error:
            told(BROKEN_ROW, f"row {number}: {error}")
            continue
        if event is None:
            told(OTHER_TYPE, f"row {number}: it is no request and no response")
        else:
            yield event


def _event(row: Any, settings: TrafficSettings, time: float) -> LoggedEvent | None:
    if not isinstance(row, Mapping):
        message = "it is no object"
        raise TypeError(message)
    found = {known: value for name, value in row.items() if (known := _known(name)) and value is not None}
    values = {name: _text(value) for name, value in found.items() if name not in ("bytes", "source")}
    values["source"] = _source(found.get("source")) or "recorded"
    kind = KINDS.get(values.get("type", ""))
    body = _body(found.get("bytes"))
    return None if kind is None else logged_event(kind, values, values.get("content_type", ""), body, settings, time)


def _known(name: str) -> str | None:
    return _NAMES.get(name.replace("_", "").lower())


def _text(value: Any) -> str:
    """A value of a row as an attribute of an event; a map of Parquet is a list of pairs."""
    if isinstance(value, list):
        value = dict(value)
    return value if isinstance(value, str) else json.dumps(value)


def _source(value: Any) -> str:
    """A URI, which Go writes as an object in JSON."""
    if isinstance(value, Mapping):
        return f"{value.get('Scheme', '')}://{value.get('Host', '')}{value.get('Path', '')}"
    return value if isinstance(value, str) else ""


def _body(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    text = value.strip().strip('"') if isinstance(value, str) else ""
    return b64decode(text, validate=True)


def _parquet_rows(path: Path, _settings: TrafficSettings) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as table:
            names = [name for name in table.schema_arrow.names if _known(name)]
            largest = largest_page_bytes(path, names)
            if largest > _MAX_PAGE_BYTES:
                message = f"it has a page of {largest:,} bytes when unpacked; at most {_MAX_PAGE_BYTES:,} are read"
                raise BrokenFile(message)
            at_once = min(max(_PARQUET_BYTES // max(largest, 1), 1), _PARQUET_ROWS)
            for batch in table.iter_batches(at_once, columns=names):
                yield from batch.to_pylist()
    except BrokenFile:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"it is not a whole Parquet file ({error})"
        raise BrokenFile(message) from error


def _json_rows(path: Path, _settings: TrafficSettings) -> Iterator[Row]:
    try:
        content = parse_json_file(path, finite=False)
    except (RefusedJSON, OSError) as error:
        message = f"it cannot be read as JSON: {error}"
        raise BrokenFile(message) from error
    yield from content if isinstance(content, list) else [content]


def _line_rows(path: Path, settings: TrafficSettings) -> Iterator[Any]:
    """One object a line; a line that is none is a row that is none."""
    try:
        for _, line in read_whole_lines(path, path.name, 2 * settings.max_event_bytes):
            if line is None or not line.isspace():
                yield _line(line)
    except CorpusError as error:
        raise BrokenFile(str(error)) from error


def _line(line: str | None) -> Any:
    try:
        return None if line is None else parse_json(line, finite=False)
    except RefusedJSON:
        return None


def _csv_rows(path: Path, settings: TrafficSettings) -> Iterator[Row]:
    csv.field_size_limit(2 * settings.max_event_bytes)
    lines = (line or "" for _, line in read_whole_lines(path, path.name, 2 * settings.max_event_bytes))
    try:
        yield from csv.DictReader(lines, strict=True)
    except (csv.Error, CorpusError) as error:
        message = f"it cannot be read as CSV: {error}"
        raise BrokenFile(message) from error


_ROWS: Mapping[str, Callable[[Path, TrafficSettings], Iterator[Any]]] = {
    ".parquet": _parquet_rows,
    ".json": _json_rows,
    ".jsonl": _line_rows,
    ".csv": _csv_rows,
}
