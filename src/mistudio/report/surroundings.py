"""What surrounds a feature: its neighbours, its place on the map, and the tasks and positions it fires in.

Tables and columns that an artifact does not have, as it was published before there were any, are not shown.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.find import MAP_NAME, NEIGHBOURS_NAME
from mistudio.report.metrics import finite, rounded

_RELATIONS = ("decoder", "correlation")
_NEIGHBOURS_SHOWN = 8
_EFFECTS = ("ablation", "ablation_elsewhere", "ablation_control", "coherence")
_PROFILES = ("task_density", "position_density")
_MAP_STEPS = 2000  # places along each side of the map: finer than anyone can see
_ROWS_READ = 4096

Row = dict[str, Any]


class FeatureGroups:
    """Rows of a table that is sorted by feature, for features asked for in rising order."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._groups = groupby(rows, key=itemgetter("feature"))
        self._next = next(self._groups, None)

    def of(self, feature: int) -> Iterator[Row]:
        """The rows of ``feature``, to be read before the next is asked for; none where it has none."""
        while self._next and self._next[0] < feature:
            self._next = next(self._groups, None)
        return self._next[1] if self._next and self._next[0] == feature else iter(())


class Neighbours:
    """Nearest features by direction and by co-activation."""

    def __init__(self, features: Artifact) -> None:
        there = NEIGHBOURS_NAME in features.paths()
        self._groups = FeatureGroups(read_rows(features.file(NEIGHBOURS_NAME), _ROWS_READ) if there else iter(()))

    def of(self, feature: int) -> dict[str, list[tuple[int, float | None]]]:
        """By relation, other features with their cosine or correlation, nearest first."""
        found: dict[str, list[tuple[int, float | None]]] = {}
        for row in self._groups.of(feature):
            nearest = found.setdefault(row["relation"], [])
            if row["relation"] in _RELATIONS and len(nearest) < _NEIGHBOURS_SHOWN:
                nearest.append((row["other"], rounded(row["value"])))
        return {relation: found[relation] for relation in _RELATIONS if found.get(relation)}


def map_columns(features: Artifact, shown: int) -> dict[str, list[int | None]]:
    """Where the first features lie, in whole steps from the lower left, their clusters and near-duplicates."""
    if MAP_NAME not in features.paths():
        return {}
    table = pq.read_table(features.file(MAP_NAME)).slice(0, shown)
    place_F2 = np.stack([table[axis].to_numpy(zero_copy_only=False) for axis in ("x", "y")], axis=1)
    if not len(place_F2) or not np.isfinite(place_F2).all():
        return {}
    low_2 = place_F2.min(axis=0)
    # One scale for both axes: distances on the map mean the same in all directions.
    scale = _MAP_STEPS / max(float((place_F2.max(axis=0) - low_2).max()), 1e-9)
    steps_F2 = ((place_F2 - low_2) * scale).round().astype(np.int64)
    columns = {"x": steps_F2[:, 0].tolist(), "y": steps_F2[:, 1].tolist()}
    return {**columns, "cluster": table["cluster"].to_pylist(), "group": table["group"].to_pylist()}


def profile(row: Row) -> Row:
    """Effects of taking the feature out, densities by task and position, and the tokens that go with it."""
    found: Row = {name: rounded(row[name]) for name in _EFFECTS if finite(row.get(name)) is not None}
    found |= {name: [rounded(value) for value in row[name]] for name in _PROFILES if row.get(name)}
    if row.get("lift_tokens"):
        found["lift"] = pairs(row["lift_tokens"], row["lift_values"])
    return found


def pairs(tokens: Sequence[str], values: Sequence[float]) -> list[tuple[str, float | None]]:
    """Tokens with their figures."""
    return [(token, rounded(value)) for token, value in zip(tokens, values, strict=True)]


def read_rows(path: Path, batch_rows: int) -> Iterator[Row]:
    """The rows of a table, a batch in memory at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows):
            yield from batch.to_pylist()
