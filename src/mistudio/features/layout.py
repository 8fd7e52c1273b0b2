"""How a table lies in an artifact: in one file, or in a folder of them where there are many features.

A reader has to read the footer of a file before anything else, and the footer grows with the row groups. So a file
holds ``FEATURES_OF_FILE`` features at most: a table of fewer is ``<table>.parquet``, one of more is the folder
``<table>/`` with a file for each run of features, named by the first of them. In both the rows ascend by feature, which
each file says of itself, and a row group holds few features, all rows of each: what is known of one feature is one
small read.

Shape legend: R rows at hand.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft
from mistudio.features.schema import Table

FEATURES_OF_FILE = 4_096
_FEATURE = "feature"


@contextmanager
def writing(path: Path, table: Table) -> Iterator[pq.ParquetWriter]:
    """Open a file of ``table`` whose rows ascend by feature; each table that is written becomes a row group.

    Only the features of a row group are noted in the footer, which has to be read before anything else is. Dictionaries
    are for texts alone: with few rows, those of numbers save nothing and take time.
    """
    with pq.ParquetWriter(
        path,
        table.schema,
        compression="zstd",
        write_statistics=[_FEATURE],
        use_dictionary=_text_columns(table),
        sorting_columns=[pq.SortingColumn(0)],  # the feature comes first in every table
    ) as writer:
        yield writer


def part_names(table: Table, num_features: int) -> list[str]:
    """Names of the files that hold a table of so many features, in order."""
    is_folder = not PurePath(table.name).suffix
    if num_features <= FEATURES_OF_FILE and not is_folder:
        return [table.name]
    return [f"{_folder(table)}/{first:07d}.parquet" for first in range(0, num_features, FEATURES_OF_FILE)]


def parts_of(artifact: Artifact, table: Table) -> list[str]:
    """Names of the files that an artifact holds a table in, in order; none where it has no such table."""
    return artifact.paths(f"{_folder(table)}/") or [path for path in artifact.paths(table.name) if path == table.name]


def first_of(part: str) -> int:
    """The feature from which on a file holds those that it does."""
    stem = part.rpartition("/")[2].partition(".")[0]
    return int(stem) if stem.isdecimal() else 0


class TableWriter:
    """Writes a table of an artifact, to be used in a ``with`` block; every file of it is there in the end.

    Args:
        draft: of the artifact.
        table: which.
        num_features: of the search.
        of_group: features whose rows share a row group.
    """

    def __init__(self, draft: Draft, table: Table, num_features: int, of_group: int) -> None:
        self._draft, self._table, self._of_group = draft, table, of_group
        self.names = part_names(table, num_features)
        self._left = list(self.names)
        self._open = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []  # rows of the last group, which may go on
        self._waiting_group = -1

    def __enter__(self) -> Self:
        self._open.__enter__()
        return self

    def __exit__(self, *error: object) -> bool | None:
        if error[0] is None:
            self._flush()
            self._reach(None)
        return self._open.__exit__(*error)  # type: ignore[arg-type]

    def write(self, rows: pa.Table) -> None:
        """Add rows, which ascend by feature and begin at or behind the last of those before."""
        group_R = self._group(rows[_FEATURE].to_numpy().astype(np.int64))
        edges = np.flatnonzero(np.diff(group_R, prepend=-1, append=-1)).tolist()
        for start, stop in pairwise(edges):
            if self._waiting and self._waiting_group != group_R[start]:
                self._flush()
            self._waiting_group = int(group_R[start])
            self._waiting.append(rows.slice(start, stop - start))

    def _group(self, feature_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for the row group of each row [R]; none goes over from one file to the next."""
        groups_of_file = -(-FEATURES_OF_FILE // self._of_group)
        file_R, place_R = np.divmod(feature_R, FEATURES_OF_FILE)
        group_R: NDArray[np.int64] = file_R * groups_of_file + place_R // self._of_group
        return group_R

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting = []
        self._reach(int(rows[_FEATURE][0].as_py()))
        if self._writer is not None:
            self._writer.write_table(rows)

    def _reach(self, feature: int | None) -> None:
        """Open the file that holds a feature, and make those before it; None: make all that are left."""
        while self._left and (feature is None or first_of(self._left[0]) <= feature):
            self._open.close()
            path = self._open.enter_context(self._draft.stage(self._left.pop(0)))
            self._writer = self._open.enter_context(writing(path, self._table))


def write_rows(draft: Draft, table: Table, num_features: int, of_group: int, rows: Iterable[pa.Table]) -> list[str]:
    """Write a table of an artifact from rows that ascend by feature; return the names of its files."""
    with TableWriter(draft, table, num_features, of_group) as writer:
        for some in rows:
            writer.write(some)
    return writer.names


def is_ascending(metadata: pq.FileMetaData) -> bool:
    """Whether a file says of itself that its rows ascend by feature."""
    if not metadata.num_row_groups:
        return True
    columns: Sequence[pq.SortingColumn] = metadata.row_group(0).sorting_columns
    return bool(columns) and columns[0].column_index == 0 and not columns[0].descending


def _folder(table: Table) -> str:
    return str(PurePath(table.name).with_suffix(""))


def _text_columns(table: Table) -> list[str]:
    """Columns of texts, and of lists of them, as Parquet calls them."""
    singles = [column.name for column in table.columns if pa.types.is_string(column.type)]
    lists = [column.name for column in table.columns if column.type.equals(pa.list_(pa.string()))]
    return [*singles, *(f"{name}.list.element" for name in lists)]
