"""Parquet tables that are read a few features at a time, and written so that this is one small read.

Of each file the footer is kept, which says which features its row groups hold; nothing else is. Any number of threads
may read at once: each read opens the file for itself.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.features.schema import Table

_FEATURE = "feature"
_GROUPS_AT_ONCE = 64
_NO_END = 1 << 31  # behind every feature


@contextmanager
def writing(path: Path, table: Table) -> Iterator[pq.ParquetWriter]:
    """Open a file of ``table``; each table that is written becomes a row group.

    Only the features of a row group are noted in the footer, which has to be read before anything else is. Dictionaries
    are for texts alone: with few rows, those of numbers save nothing and take time.
    """
    with pq.ParquetWriter(
        path, table.schema, compression="zstd", write_statistics=[_FEATURE], use_dictionary=_text_columns(table)
    ) as writer:
        yield writer


def _text_columns(table: Table) -> list[str]:
    """Columns of texts, and of lists of them, as Parquet calls them."""
    singles = [column.name for column in table.columns if pa.types.is_string(column.type)]
    lists = [column.name for column in table.columns if column.type.equals(pa.list_(pa.string()))]
    return [*singles, *(f"{name}.list.element" for name in lists)]


@dataclass(frozen=True)
class _File:
    """A Parquet file whose footer has been read."""

    artifact: Artifact
    name: str
    path: Path
    metadata: pq.FileMetaData
    by_feature: bool

    def open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, metadata=self.metadata, memory_map=True)
        except FileNotFoundError:  # it was a copy, which this machine has dropped since
            return pq.ParquetFile(self.artifact.file(self.name), metadata=self.metadata, memory_map=True)

    def groups(self, first: int, stop: int) -> Sequence[int]:
        """The row groups that hold any of the features from ``first`` to before ``stop``."""
        if not self.by_feature:
            return [group for group, (low, high) in enumerate(self._bounds) if low < stop and high >= first]
        everything = range(self.metadata.num_row_groups)
        start = bisect_left(everything, first, key=lambda group: self._bound(group)[1])
        return range(start, bisect_left(everything, stop, lo=start, key=lambda group: self._bound(group)[0]))

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        return [self._bound(group) for group in range(self.metadata.num_row_groups)]

    def _bound(self, group: int) -> tuple[int, int]:
        """The smallest and the largest feature of a row group; of an empty one, such that nothing lies between."""
        found = self.metadata.row_group(group)
        statistics = found.column(0).statistics  # the feature comes first in every table
        return (statistics.min, statistics.max) if found.num_rows else (_NO_END, -1)


class TableReader:
    """Reads a table of an artifact by feature.

    Args:
        artifact: has the table.
        table: which.
    """

    def __init__(self, artifact: Artifact, table: Table) -> None:
        self.artifact, self.table = artifact, table
        is_file = bool(PurePath(table.name).suffix)
        self._paths = [table.name] if is_file else artifact.paths(f"{table.name}/")
        self._firsts = [0] if is_file else [int(PurePath(path).stem) for path in self._paths]
        self._files: dict[str, _File] = {}
        self._lock = Lock()

    def groups(
        self, first: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """The rows of features ``first`` to before ``stop``, one row group in memory at a time.

        Args:
            first: first feature.
            stop: the one behind the last; None: to the end.
            columns: which; the feature comes with them. None: all.

        Raises:
            NotFound: the artifact has no such table.
            DamagedArtifact: it is not what was published.
        """
        wanted = None if columns is None else list(dict.fromkeys((_FEATURE, *columns)))
        stop = _NO_END if stop is None else stop
        for path, start in zip(self._paths, self._firsts, strict=True):
            if start >= stop or self._ends_before(start, first):
                continue
            file = self._file(path)
            with file.open() as parquet:
                for group in file.groups(first, stop):
                    yield self._between(parquet.read_row_group(group, wanted, use_threads=False), first, stop)

    def read(self, first: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of features ``first`` to before ``stop``; few, as all are in memory."""
        parts = list(self.groups(first, stop, columns))
        if parts:
            return pa.concat_tables(parts)
        return self.table.schema.empty_table().select(columns or self.table.names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, many row groups at a time."""
        for path in self._paths:
            file = self._file(path)
            with file.open() as parquet:
                for start in range(0, parquet.num_row_groups, _GROUPS_AT_ONCE):
                    some = range(start, min(start + _GROUPS_AT_ONCE, parquet.num_row_groups))
                    yield from parquet.read_row_groups(some, list(columns), use_threads=False).to_batches()

    def column(self, name: str) -> pa.Array:
        """One whole column."""
        parts = [batch.column(0) for batch in self.batches([name])]
        return pa.concat_arrays(parts) if parts else pa.array([], self.table.schema.field(name).type)

    def _ends_before(self, start: int, first: int) -> bool:
        """Whether the file of features from ``start`` on ends before ``first``."""
        following = bisect_left(self._firsts, start + 1)
        return following < len(self._firsts) and self._firsts[following] <= first

    def _file(self, path: str) -> _File:
        """A file with its footer; checked and read by the first thread that wants it."""
        with self._lock:
            if path not in self._files:
                local = self.artifact.file(path)
                self._files[path] = _File(self.artifact, path, local, pq.read_metadata(local), self.table.by_feature)
            return self._files[path]

    def _between(self, rows: pa.Table, first: int, stop: int) -> pa.Table:
        feature = rows[_FEATURE]
        if not self.table.by_feature:
            return rows.filter(pc.and_(pc.greater_equal(feature, first), pc.less(feature, stop)))
        start, end = np.searchsorted(feature.to_numpy(), (first, stop))
        return rows.slice(start, end - start)
