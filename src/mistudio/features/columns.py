"""Columns of one value a feature, by name: of the search, of the map, of labels, texts and scores.

Of few features a column is read when it is first asked for, and kept. Of many it is kept as a file
(:mod:`mistudio.features.column_files`), and a block of it is in memory at a time.

Shape legend: F features, R of them at hand.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.artifacts.scratch import scratch_folder
from mistudio.errors import InputError
from mistudio.features import column_files
from mistudio.features.column_files import ColumnFile, ColumnFiles, in_blocks, spread
from mistudio.features.figures import Figure, main_figure
from mistudio.features.schema import EXPLANATIONS, FEATURES, LABELS, MAP, SCORES, SCORES_SUMMARY_NAME
from mistudio.features.tables import TableReader
from mistudio.plain_text import shortened

TEXT, SCORE = "text", "score"
FOLDER = "columns"  # in the private folder of this machine
KEPT_FEATURES = 16_384  # columns of so many stay in memory
_OF_MAP, _OF_LABELS = MAP.single[1:], LABELS.single[1:]  # the feature comes first


class Columns:
    """One value a feature each, in the order of the features; null where a feature has none.

    Besides the columns of tables that hold one row a feature, there are ``text`` (the first explanation), ``score``
    (the figure that stands for a feature) and every figure as ``explainer/scorer/metric``.

    Args:
        num_features: F.
        features: the table of features.
        places: the map.
        explanations: artifact of kind ``explanations``, if there is one.
        scores: artifact of kind ``scores``, if there is one.
        trials: artifact of kind ``trials`` that is laid over the table of features, if there is one.
    """

    def __init__(
        self,
        num_features: int,
        features: TableReader,
        places: TableReader,
        explanations: Artifact | None,
        scores: Artifact | None,
        trials: Artifact | None = None,
    ) -> None:
        self._num_features, self._features, self._places = num_features, features, places
        self._explanations, self._scores = explanations, scores
        made_of = (features.artifact, explanations, scores, trials)
        self._key = " ".join("-" if each is None else each.digest for each in made_of)
        self._kept: dict[str, pa.Array] = {}
        self._lock = Lock()

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """Names of those that a list of features shows."""
        labels = _OF_LABELS if self._explanations is not None else ()
        score = (SCORE,) if main_figure(self.figures.values()) else ()
        return (*FEATURES.single, *_OF_MAP, *labels, *score)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all."""
        text = (TEXT,) if self._explanations is not None else ()
        return (*self.shown, *text, *self.figures)

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Explainer, scorer and metric of each figure, by the name of its column."""
        if self._scores is None:
            return {}
        means = json.loads(self._scores.file(SCORES_SUMMARY_NAME).read_bytes())["means"]
        figures: list[Figure] = [(each["explainer"], each["scorer"], each["metric"]) for each in means]
        return {"/".join(figure): figure for figure in figures}

    def get(self, name: str) -> pa.Array:
        """The whole column of this name [F].

        Raises:
            InputError: there is none.
        """
        if self._is_few:
            return self._in_memory(name)
        self._check(name)
        found = self._files.find(self._file_key(name))
        blocks = found.blocks() if found is not None else self._read(name)
        return pa.concat_arrays(list(blocks))

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        """Some columns, some features at a time: the first of them, and their values by name.

        Raises:
            InputError: there is no such column.
        """
        if self._is_few:
            yield 0, {name: self._in_memory(name) for name in names}
            return
        columns = {name: self._file(name).blocks() for name in names}
        for start in range(0, self._num_features, column_files.BLOCK):
            yield start, {name: next(blocks) for name, blocks in columns.items()}

    def take(self, name: str, features_R: NDArray[np.int64]) -> pa.Array:
        """The values of some features in a column, in their order [R].

        Raises:
            InputError: there is no such column.
        """
        if self._is_few:
            return self._in_memory(name).take(pa.array(features_R))
        return self._file(name).take(features_R)

    @property
    def _is_few(self) -> bool:
        return self._num_features <= KEPT_FEATURES

    def _in_memory(self, name: str) -> pa.Array:
        with self._lock:
            if name not in self._kept:
                self._check(name)
                self._kept[name] = pa.concat_arrays(list(self._read(name)))
            return self._kept[name]

    @cached_property
    def _files(self) -> ColumnFiles:
        return ColumnFiles(scratch_folder(self._features.artifact.store) / FOLDER)

    def _file(self, name: str) -> ColumnFile:
        self._check(name)
        return self._files.get(self._file_key(name), lambda: in_blocks(self._read(name)))

    def _file_key(self, name: str) -> str:
        return f"{self._key} {name}"

    def _check(self, name: str) -> None:
        if name not in self.names:
            message = (
                f"There is no column {shortened(name)} of one value a feature: use one of {', '.join(self.names)}."
            )
            raise InputError(message)

    def _read(self, name: str) -> Iterator[pa.Array]:
        """A column out of its table, some features at a time."""
        if name in FEATURES.single:
            return self._features.column_parts(name)
        if name in _OF_MAP:
            return self._places.column_parts(name)
        if name in _OF_LABELS and self._explanations is not None:
            labels = TableReader(self._explanations, LABELS)
            kind = LABELS.schema.field(name).type
            return spread(_pairs(labels.ascending([name]), name), self._num_features, kind)
        if name == TEXT and self._explanations is not None:
            return self._texts(TableReader(self._explanations, EXPLANATIONS))
        return self._values(self.figures.get(name) or main_figure(self.figures.values()))

    def _texts(self, explanations: TableReader) -> Iterator[pa.Array]:
        rows = explanations.ascending(["status", TEXT])
        explained = (each.filter(pc.equal(each["status"], "explained")) for each in rows)
        return spread(_pairs(explained, TEXT), self._num_features, pa.string())

    def _values(self, figure: Figure | None) -> Iterator[pa.Array]:
        if figure is None or self._scores is None:
            return iter([pa.nulls(self._num_features, pa.float32())])
        rows = TableReader(self._scores, SCORES).ascending(["explainer", "scorer", "metric", "value"])
        return spread(_pairs((_of(figure, each) for each in rows), "value"), self._num_features, pa.float32())


def _of(figure: Figure, rows: pa.Table) -> pa.Table:
    """The rows of one figure."""
    for name, value in zip(("explainer", "scorer", "metric"), figure, strict=True):
        rows = rows.filter(pc.equal(rows[name], value))
    return rows


def _pairs(tables: Iterable[pa.Table], name: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Features and their values in a column, some at a time."""
    for rows in tables:
        if len(rows):
            yield rows["feature"].combine_chunks(), rows[name].combine_chunks()
