"""Parquet tables that are read a few features at a time (:mod:`mistudio.features.layout` says how they lie).

Of the files that were read last the footers are kept, which say which features their row groups hold; nothing else is.
Any number of threads may read at once: each read opens the file for itself.

Tables of explanations and scores that were published before they lay by feature lie by explainer or scorer. They are
read all the same: of each row group the bounds are looked at, and what has to ascend is sorted in memory.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.features.layout import first_of, is_ascending, parts_of, writing
from mistudio.features.schema import Table

__all__ = ["TableReader", "writing"]

_FEATURE = "feature"
_GROUPS_AT_ONCE = 64
_FOOTERS_KEPT = 16  # of a table, so that what is kept does not grow with the features
_NO_END = 1 << 31  # behind every feature


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

    def between(self, rows: pa.Table, first: int, stop: int) -> pa.Table:
        """Of the rows of a row group those of some features."""
        feature = rows[_FEATURE]
        if not self.by_feature:
            return rows.filter(pc.and_(pc.greater_equal(feature, first), pc.less(feature, stop)))
        start, end = np.searchsorted(feature.to_numpy(), (first, stop))
        return rows.slice(start, end - start)

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
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = Lock()

    @cached_property
    def _paths(self) -> list[str]:
        is_file = bool(PurePath(self.table.name).suffix)
        return parts_of(self.artifact, self.table) or ([self.table.name] if is_file else [])

    @cached_property
    def _firsts(self) -> list[int]:
        return [first_of(path) for path in self._paths]

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
        behind = bisect_left(self._firsts, stop)
        for path in self._paths[max(bisect_right(self._firsts, first) - 1, 0) : behind]:
            file = self._file(path)
            with file.open() as parquet:
                for group in file.groups(first, stop):
                    yield file.between(parquet.read_row_group(group, wanted, use_threads=False), first, stop)

    def ascending(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows by rising feature, those of a feature as they lie; all in memory where the file does not ascend."""
        if all(self._file(path).by_feature for path in self._paths):
            yield from self.groups(columns=columns)
            return
        rows = pa.concat_tables(self.groups(columns=columns))
        yield rows.take(pc.sort_indices(rows, sort_keys=[(_FEATURE, "ascending")]))

    def read(self, first: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of features ``first`` to before ``stop``; few, as all are in memory."""
        parts = list(self.groups(first, stop, columns))
        if parts:
            return pa.concat_tables(parts)
        names = self.table.names if columns is None else list(dict.fromkeys((_FEATURE, *columns)))
        return self.table.schema.empty_table().select(names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all rows, many row groups at a time."""
        for path in self._paths:
            file = self._file(path)
            with file.open() as parquet:
                for start in range(0, parquet.num_row_groups, _GROUPS_AT_ONCE):
                    some = range(start, min(start + _GROUPS_AT_ONCE, parquet.num_row_groups))
                    yield from parquet.read_row_groups(some, list(columns), use_threads=False).to_batches()

    def column_parts(self, name: str) -> Iterator[pa.Array]:
        """One column of all rows, many row groups at a time."""
        yield pa.array([], self.table.schema.field(name).type)  # so that there is one
        for batch in self.batches([name]):
            yield batch.column(0)

    def column(self, name: str) -> pa.Array:
        """One whole column."""
        return pa.concat_arrays(list(self.column_parts(name)))

    def _file(self, path: str) -> _File:
        """A file with its footer; checked and read by the first thread that wants it."""
        with self._lock:
            if path not in self._files:
                local = self.artifact.file(path)
                metadata = pq.read_metadata(local)
                ascends = self.table.by_feature or is_ascending(metadata)
                self._files[path] = _File(self.artifact, path, local, metadata, ascends)
            self._files.move_to_end(path)
            if len(self._files) > _FOOTERS_KEPT:
                self._files.popitem(last=False)
            return self._files[path]
