"""Columns of one value a feature, by name: of the search, of the map, of labels, texts and scores.

Each is read when it is first asked for, and kept; it takes a few bytes a feature, or those of the words.

Shape legend: F features.
"""

import json
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.errors import InputError
from mistudio.features.figures import Figure, main_figure
from mistudio.features.schema import EXPLANATIONS, FEATURES, LABELS, MAP, SCORES, SCORES_SUMMARY_NAME
from mistudio.features.tables import TableReader
from mistudio.plain_text import shortened

TEXT, SCORE = "text", "score"
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
    """

    def __init__(
        self,
        num_features: int,
        features: TableReader,
        places: TableReader,
        explanations: Artifact | None,
        scores: Artifact | None,
    ) -> None:
        self._num_features, self._features, self._places = num_features, features, places
        self._explanations, self._scores = explanations, scores
        self._kept: dict[str, pa.Array] = {}

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
        """The column of this name [F].

        Raises:
            InputError: there is none.
        """
        if name not in self._kept:
            self._kept[name] = self._read(name)
        return self._kept[name]

    def _read(self, name: str) -> pa.Array:
        if name not in self.names:
            message = (
                f"There is no column {shortened(name)} of one value a feature: use one of {', '.join(self.names)}."
            )
            raise InputError(message)
        if name in FEATURES.single:
            return self._features.column(name)
        if name in _OF_MAP:
            return self._places.column(name)
        if name in _OF_LABELS and self._explanations is not None:
            labels = TableReader(self._explanations, LABELS)
            return self._by_feature(labels.column("feature"), labels.column(name))
        if name == TEXT and self._explanations is not None:
            return self._texts(TableReader(self._explanations, EXPLANATIONS))
        figure = self.figures.get(name) or main_figure(self.figures.values())
        return self._values(figure)

    def _texts(self, explanations: TableReader) -> pa.Array:
        explained = pc.equal(explanations.column("status"), "explained")
        feature, text = (explanations.column(name).filter(explained) for name in ("feature", "text"))
        first = np.unique(feature.to_numpy(), return_index=True)[1]
        return self._by_feature(feature.take(pa.array(first)), text.take(pa.array(first)))

    def _values(self, figure: Figure | None) -> pa.Array:
        if figure is None or self._scores is None:
            return pa.nulls(self._num_features, pa.float32())
        wanted = [(name, "=", value) for name, value in zip(("explainer", "scorer", "metric"), figure, strict=True)]
        rows = pq.read_table(self._scores.file(SCORES.name), columns=["feature", "value"], filters=wanted)
        return self._by_feature(rows["feature"], rows["value"])

    def _by_feature(self, feature: pa.Array, values: pa.Array) -> pa.Array:
        """Values in the order of all features; null where there is none."""
        row_F = np.full(self._num_features, -1, dtype=np.int64)
        row_F[feature.to_numpy()] = np.arange(len(feature))
        found = values.take(pa.array(row_F, mask=row_F < 0))
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
