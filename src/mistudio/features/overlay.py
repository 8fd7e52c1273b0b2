"""Trials that were made later, laid over the tables of a search, which read as if find had made them.

Shape legend: F features, R rows at hand.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.features.schema import CONTEXTS, FEATURES, TRACES, TRIALS
from mistudio.features.tables import TableReader

EFFECTS = TRIALS.names[1:]  # the feature comes first
ATTRIBUTIONS = TRACES.names[2:]  # behind the feature and the rank
TRIED = "tried"
_TOP = "top"


class Overlay:
    """The rows of an artifact of kind ``trials``; read when they are first asked for, and kept."""

    def __init__(self, trials: Artifact) -> None:
        self._trials, self._traces = TableReader(trials, TRIALS), TableReader(trials, TRACES)

    def features(self, rows: pa.Table) -> pa.Table:
        """Rows of the table of features, with the effects of those tried."""
        row_R = _place(self._tried["feature"].to_numpy(), rows["feature"].to_numpy())
        for name in rows.column_names:
            if name in EFFECTS:
                rows = _with(rows, name, _laid_over(rows[name], self._tried[name], row_R))
            elif name == TRIED:
                rows = _with(rows, name, pc.or_(rows[name], pa.array(row_R >= 0)))
        return rows

    def contexts(self, rows: pa.Table) -> pa.Table:
        """Rows of the table of contexts, with the attributions of those traced."""
        names = [name for name in rows.column_names if name in ATTRIBUTIONS]
        if not names or not len(rows):
            return rows
        asked = _key(rows)
        row_R = _place(_key(self._traced), np.where(pc.equal(rows["kind"], _TOP).to_numpy(), asked, -1))
        for name in names:
            rows = _with(rows, name, _laid_over(rows[name], self._traced[name], row_R))
        return rows

    @cached_property
    def _tried(self) -> pa.Table:
        return self._trials.read(0, 1 << 31).combine_chunks()

    @cached_property
    def _traced(self) -> pa.Table:
        return self._traces.read(0, 1 << 31).combine_chunks()


class OverlaidReader(TableReader):
    """Reads the table of features or of contexts with what was tried later.

    Args:
        artifact: has the table.
        overlay: what was tried.
        of_contexts: which of the two tables.
    """

    def __init__(self, artifact: Artifact, overlay: Overlay, *, of_contexts: bool) -> None:
        super().__init__(artifact, CONTEXTS if of_contexts else FEATURES)
        self._laid_over = overlay.contexts if of_contexts else overlay.features

    def groups(
        self, first: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """As in the table, with what was tried; of contexts the kind and the rank have to be among the columns."""
        yield from map(self._laid_over, super().groups(first, stop, columns))

    def column_parts(self, name: str) -> Iterator[pa.Array]:
        """One column of all rows, some row groups at a time."""
        if name not in (*EFFECTS, TRIED):
            yield from super().column_parts(name)
            return
        for rows in self.groups(columns=[name]):
            yield rows[name].combine_chunks()


def _key(rows: pa.Table) -> NDArray[np.int64]:
    """One number for each feature and rank."""
    feature, rank = (rows[name].to_numpy().astype(np.int64) for name in ("feature", "rank"))
    key: NDArray[np.int64] = (feature << 32) + rank
    return key


def _place(known: NDArray[np.int64], asked_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of those asked for stands among the known ones, which ascend [R]; -1 where it does not."""
    place_R = np.searchsorted(known, asked_R)
    found_R = place_R < len(known)
    found_R[found_R] = known[place_R[found_R]] == asked_R[found_R]
    return np.where(found_R, place_R, -1)


def _laid_over(old: pa.ChunkedArray, new: pa.ChunkedArray, row_R: NDArray[np.int64]) -> pa.ChunkedArray:
    there_R = pa.array(row_R >= 0)
    return pc.if_else(there_R, new.take(pa.array(row_R, mask=row_R < 0)), old)


def _with(rows: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    place = rows.column_names.index(name)
    return rows.set_column(place, rows.schema.field(place), column)
