"""Writing a folder that appears whole or not at all, and files in it that are the same bytes each time."""

import errno
import gzip
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa

from mistudio.errors import ConfigError, StorageError, StorageFull

_ROWS_AT_ONCE = 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)

Item = TypeVar("Item")
WriteRow = Callable[[Any], None]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside ``target`` to write to; on a clean exit it takes the place of ``target``.

    Raises:
        ConfigError: there is something at ``target``.
        StorageFull: the disk is full.
        StorageError: it cannot be written.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        message = f"{target} already has {'files' if target.is_dir() else 'another use'}: choose an empty folder."
        raise ConfigError(message)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        if error.errno is None:  # from reading a table, not from writing
            raise
        kind = StorageFull if error.errno in _FULL else StorageError
        message = f"Cannot write {target}: {error.strerror or error}. Free some space or choose another folder."
        raise kind(message) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def json_lines(path: Path) -> Iterator[WriteRow]:
    """Give a function that writes a row as a line; packed where the name ends in ``.gz``, without a time or name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                yield _line_writer(packed)
        else:
            yield _line_writer(file)


def write_batch(path: Path, head: dict[str, Any], name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object: ``head``, then the list ``name`` of ``rows``, of which one is held at a time."""
    with path.open("w", encoding="utf-8") as file:
        file.write(_dumps(head).removesuffix("}") + f', "{name}": [')
        for number, row in enumerate(rows):
            file.write((",\n" if number else "\n") + _dumps(row))
        file.write("\n]}\n")


def write_table_lines(tables: Iterable[pa.Table], path: Path) -> int:
    """Write the rows of tables as JSON Lines, with null for what is not a number; return how many rows there are."""
    rows = 0
    with json_lines(path) as write:
        for batch in chain.from_iterable(table.to_batches(_ROWS_AT_ONCE) for table in tables):
            for row in batch.to_pylist():
                write(_without_nan(row))
            rows += len(batch)
    return rows


def chunks(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """The items in runs of ``size``; use up each run before asking for the next."""
    whole = iter(items)
    for first in whole:
        yield chain([first], islice(whole, size - 1))


def _line_writer(file: BinaryIO | gzip.GzipFile) -> WriteRow:
    def write(row: Any) -> None:
        file.write(_dumps(row).encode() + b"\n")

    return write


def _dumps(row: Any) -> str:
    return json.dumps(row, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    return value
