"""Columns of one value a feature, as Arrow files in the private folder of this machine: made once, read in blocks.

A column out of Parquet tables, whose row groups hold what is known of a few features together, takes thousands of
small reads. As a file of its own it is one read, of as little as is wanted. The files are copies that can be made
again: those used least recently go when there are too many, and where the folder cannot be written they are made for
this process alone.

Shape legend: F features, R of them at hand.
"""

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from threading import Lock
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BLOCK = 65_536  # features whose values are in memory at once
MOST_BYTES = 2 << 30  # of all files in a folder
_VERSION = "1"  # of what a file holds, for a name of its own

Blocks = Iterable[pa.Array]  # of BLOCK values each, but the last


class ColumnFile:
    """A column in a file.

    Args:
        path: of an Arrow IPC file with a batch of ``BLOCK`` rows for each run of features.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def blocks(self) -> Iterator[pa.Array]:
        """The values of ``BLOCK`` features after the other; each is read into memory and let go."""
        with pa.OSFile(str(self.path)) as source, pa.ipc.open_file(source) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number).column(0)

    def take(self, features_R: NDArray[np.int64]) -> pa.Array:
        """The values of some features, in their order [R]; of the file only where they lie is read."""
        order_R = np.argsort(features_R, kind="stable")
        block_R = features_R[order_R] // BLOCK
        with pa.memory_map(str(self.path)) as source, pa.ipc.open_file(source) as reader:
            parts = [
                reader.get_batch(number).column(0).take(pa.array(features_R[order_R][block_R == number] % BLOCK))
                for number in np.unique(block_R).tolist()
            ]
            kind = reader.schema.field(0).type
        back_R = np.empty_like(order_R)
        back_R[order_R] = np.arange(len(order_R))
        return pa.concat_arrays(parts).take(pa.array(back_R)) if parts else pa.array([], kind)


class ColumnFiles:
    """The columns that lie in a folder.

    Args:
        folder: need not exist.
        most_bytes: of all files in it.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._own: Path | None = None  # where the folder cannot be written
        self._lock = Lock()

    def find(self, key: str) -> ColumnFile | None:
        """The column of this key, if it is there."""
        folders = [self._folder] if self._own is None else [self._folder, self._own]
        for folder in folders:
            path = folder / _name(key)
            with suppress(OSError):
                os.utime(path)  # it was used now
            if path.is_file():
                return ColumnFile(path)
        return None

    def get(self, key: str, make: Callable[[], Blocks]) -> ColumnFile:
        """The column of this key; one thread makes it where it is not there."""
        with self._lock:
            return self.find(key) or self._made(key, make())

    def _made(self, key: str, blocks: Blocks) -> ColumnFile:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            part = self._folder / f".{uuid4().hex}"
            part.touch(mode=0o600)
        except OSError:
            part = self._own_folder() / f".{uuid4().hex}"
        path = part.with_name(_name(key))
        try:
            _write(part, blocks)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._drop_old(path)
        return ColumnFile(path)

    def _own_folder(self) -> Path:
        """A folder that goes with this object."""
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="mistudio-columns-"))
            weakref.finalize(self, shutil.rmtree, self._own, ignore_errors=True)
        return self._own

    def _drop_old(self, newest: Path) -> None:
        """Remove the files that were used least recently, until the others are few enough bytes."""
        files = []
        for path in newest.parent.glob("*.arrow"):
            with suppress(OSError):  # another process removed it
                found = path.stat()
                files.append((found.st_mtime_ns, found.st_size, path))
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left <= self._most_bytes or path == newest:
                break
            with suppress(OSError):
                path.unlink()
            left -= size


def in_blocks(arrays: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """The same values, of one array or more, in blocks of ``BLOCK``."""
    waiting: list[pa.Array] = []
    count = 0
    for array in arrays:
        waiting.append(array)
        count += len(array)
        while count >= BLOCK:
            joined = pa.concat_arrays(waiting)
            yield joined.slice(0, BLOCK)
            waiting, count = [joined.slice(BLOCK)], count - BLOCK
    if count:
        yield pa.concat_arrays(waiting)


def spread(rows: Iterable[tuple[pa.Array, pa.Array]], num_features: int, kind: pa.DataType) -> Iterator[pa.Array]:
    """Values of features, which ascend, as blocks that have a place for every feature; null where one has none.

    Of a feature with several values the first counts.

    Args:
        rows: features and their values, some at a time.
        num_features: F.
        kind: of the values.
    """
    start = 0
    waiting: list[tuple[NDArray[np.int64], pa.Array]] = []
    for feature, values in rows:
        number_R = feature.to_numpy().astype(np.int64)
        waiting.append((number_R, values))
        while len(number_R) and number_R[-1] >= start + BLOCK:
            yield _placed(waiting, start, min(BLOCK, num_features - start), kind)
            start += BLOCK
            waiting = [(number_R, values)]
    while start < num_features:
        yield _placed(waiting, start, min(BLOCK, num_features - start), kind)
        start, waiting = start + BLOCK, waiting[-1:]


def _placed(rows: list[tuple[NDArray[np.int64], pa.Array]], start: int, count: int, kind: pa.DataType) -> pa.Array:
    """The values of the features from ``start`` on."""
    if not rows:
        return pa.nulls(count, kind)
    number_R = np.concatenate([number for number, _ in rows]) - start
    within_R = np.flatnonzero((number_R >= 0) & (number_R < count))
    row_F = np.full(count, -1, dtype=np.int64)
    row_F[number_R[within_R][::-1]] = within_R[::-1]  # the first of a feature is written last
    return pa.concat_arrays([values for _, values in rows]).take(pa.array(row_F, mask=row_F < 0))


def _name(key: str) -> str:
    return hashlib.sha256(f"{_VERSION} {BLOCK} {key}".encode()).hexdigest()[:32] + ".arrow"


def _write(path: Path, blocks: Blocks) -> None:
    left = iter(blocks)
    first = next(left)
    schema = pa.schema([("value", first.type)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in chain([first], left):
            writer.write_batch(pa.record_batch([block], schema=schema))
