"""All that is known of the features of a search, for those who look at them: one, a page, or each in turn.

Nothing is read until it is asked for, and little is kept, however many features there are: some footers of the tables,
and of few features the columns of one value a feature that were asked for. Any number of threads may read one feature
set.

Shape legend: F features, n neighbours, R features at hand.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from itertools import groupby
from numbers import Integral
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, check_version
from mistudio.errors import InputError, NotFound
from mistudio.features.about import About
from mistudio.features.columns import Columns
from mistudio.features.figures import Figure
from mistudio.features.layout import parts_of
from mistudio.features.overlay import OverlaidReader, Overlay
from mistudio.features.paging import Condition, Order, Page, Row, choose
from mistudio.features.schema import (
    ABOUT_NAME,
    CONTEXTS,
    EXPLANATIONS,
    FEATURES,
    LABELS,
    MAP,
    NEIGHBOURS,
    SCORES,
    TOKEN_SETS,
)
from mistudio.features.tables import TableReader
from mistudio.plain_text import shortened

Neighbours = dict[str, list[tuple[int, float]]]  # by relation, the others with their figure, nearest first
Limits = Mapping[str, int]  # how many contexts of each kind

_LABELS = ("label", "explainer", "confidence")


class Found(NamedTuple):
    """A feature as :meth:`FeatureSet.stream` gives it."""

    row: Row  # of the table of features
    contexts: list[Row]
    neighbours: Neighbours

    @property
    def feature(self) -> int:
        """Its number."""
        return int(self.row["feature"])


class FeatureSet:
    """The features of one search, with what was said of them and how well that held.

    Args:
        features: artifact of kind ``features``.
        explanations: artifact of kind ``explanations``, of these features.
        scores: artifact of kind ``scores``, of these explanations.
        trials: artifact of kind ``trials``, of these features: what was tried in the model later.

    Raises:
        InputError: one is of another kind, of another version than this library reads, or of another search.
    """

    def __init__(
        self,
        features: Artifact,
        explanations: Artifact | None = None,
        scores: Artifact | None = None,
        trials: Artifact | None = None,
    ) -> None:
        _check_together(features, explanations, scores)
        _check_together(features, trials=trials)
        self.artifact, self.explained, self.scored, self.trials = features, explanations, scores, trials
        self.num_features = int(str(features.manifest.summary["features"]))
        self._features, self._contexts = TableReader(features, FEATURES), TableReader(features, CONTEXTS)
        if trials is not None:
            overlay = Overlay(trials)
            self._features = OverlaidReader(features, overlay, of_contexts=False)
            self._contexts = OverlaidReader(features, overlay, of_contexts=True)
        self._places, self._neighbours = TableReader(features, MAP), TableReader(features, NEIGHBOURS)
        self._columns = Columns(self.num_features, self._features, self._places, explanations, scores, trials)
        self._labels = TableReader(explanations, LABELS) if explanations is not None else None
        self._scores = TableReader(scores, SCORES) if scores is not None else None

    @cached_property
    def about(self) -> About:
        """What the tables were made with."""
        return About.model_validate_json(self.artifact.file(ABOUT_NAME).read_bytes())

    @cached_property
    def _explanation_tables(self) -> list[TableReader]:
        if self.explained is None:
            return []
        there = [table for table in (EXPLANATIONS, TOKEN_SETS) if parts_of(self.explained, table)]
        return [TableReader(self.explained, table) for table in there]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns of one value a feature."""
        return self._columns.names

    @property
    def figures(self) -> Mapping[str, Figure]:
        """Explainer, scorer and metric of each figure of the scores, by the name of its column."""
        return self._columns.figures

    def column(self, name: str) -> pa.Array:
        """One value of each feature, null where there is none [F]: see ``names``.

        Raises:
            InputError: there is no such column.
        """
        return self._columns.get(name)

    def row(self, feature: int) -> Row:
        """All that the search says of a feature, its place on the map, and its label where there are explanations.

        Raises:
            NotFound: there is no such feature.
        """
        (row,), (place,) = (self._rows(table, feature) for table in (self._features, self._places))
        return row | place | self._label(feature)

    def label(self, feature: int) -> str | None:
        """What a feature is called, if anything.

        Raises:
            NotFound: there is no such feature.
        """
        self._check(feature)
        label = self._label(feature).get("label")
        return None if label is None else str(label)

    def maximum(self, feature: int) -> float | None:
        """The largest activation of a feature, if it is known.

        Raises:
            NotFound: there is no such feature.
        """
        ((largest,),) = (row.values() for row in self._rows(self._features, feature, columns=["max"]))
        return None if largest is None else float(largest)

    def rows(self, features: Sequence[int], columns: Sequence[str] | None = None) -> list[Row]:
        """Some features as rows, in their order.

        Args:
            features: which; at most a few thousand, as all rows are in memory.
            columns: what a row has besides its feature, also lists of their table; None: what a list of features shows.

        Raises:
            NotFound: there is no such feature.
            InputError: there is no such column.
        """
        for feature in features:
            self._check(feature)
        return self._as_rows(np.array(features, dtype=np.int64), columns)

    def contexts(self, feature: int, limits: Limits | None = None) -> list[Row]:
        """The contexts of a feature, by kind and rank: all, or of each kind that is named the first.

        Raises:
            NotFound: there is no such feature.
        """
        return self._rows(self._contexts, feature, limits)

    def neighbours(self, feature: int) -> Neighbours:
        """The neighbours of a feature by each relation.

        Raises:
            NotFound: there is no such feature.
        """
        return _by_relation(self._rows(self._neighbours, feature))

    def explanations(self, feature: int) -> list[Row]:
        """What was said of a feature, by explainer, and then its set of tokens.

        Raises:
            NotFound: there is no such feature.
        """
        return [row for table in self._explanation_tables for row in self._rows(table, feature)]

    def scores(self, feature: int) -> list[Row]:
        """How well that held, one row a figure.

        Raises:
            NotFound: there is no such feature.
        """
        return self._rows(self._scores, feature) if self._scores is not None else []

    def page(
        self,
        where: Sequence[Condition] = (),
        order: Sequence[Order] = (),
        offset: int = 0,
        limit: int = 50,
        columns: Sequence[str] | None = None,
    ) -> Page:
        """Some of the features that match, as rows.

        Args:
            where: conditions that all have to hold, on columns of one value a feature.
            order: columns to sort by, with their direction; like ones lie by number, and those without a value last.
            offset: features to leave out at the start.
            limit: features to give at most.
            columns: what a row has besides its feature, also lists of their table; None: what a list of features shows.

        Raises:
            InputError: there is no such column, or a condition does not fit its column.
        """
        if offset < 0 or limit < 0:
            message = f"offset {offset} and limit {limit} count features: give 0 or more."
            raise InputError(message)
        first, total = choose(self._columns.blocks, where, order, offset + limit)
        return Page(self._as_rows(first[offset:], columns), total)

    def stream(
        self,
        first: int = 0,
        stop: int | None = None,
        *,
        columns: Sequence[str] | None = None,
        context_columns: Sequence[str] | None = None,
        limits: Limits | None = None,
        neighbours: bool = True,
    ) -> Iterator[Found]:
        """Features ``first`` to before ``stop`` in order; a row group of each table is in memory at a time.

        Args:
            first: first feature.
            stop: the one behind the last; None: to the end.
            columns: of the table of features; None: all.
            context_columns: of the table of contexts; None: all.
            limits: how many contexts of each kind; kinds that are not named are left out. None: all of all.
            neighbours: whether they are wanted.
        """
        kept = None if context_columns is None else list(dict.fromkeys(("kind", "rank", *context_columns)))
        contexts = _following(self._contexts.groups(first, stop, kept) if limits != {} else iter(()), limits)
        near = _following(self._neighbours.groups(first, stop) if neighbours else iter(()))
        for rows in self._features.groups(first, stop, columns):
            for row in rows.to_pylist():
                yield Found(row, contexts(row["feature"]), _by_relation(near(row["feature"])))

    def nearest(self, relation: str, count: int) -> NDArray[np.int32]:
        """The nearest others of each feature by a relation [F, n]; -1 where there are no more."""
        other_Fn = np.full((self.num_features, count), -1, dtype=np.int32)
        for batch in self._neighbours.batches(["feature", "rank", "other", "relation"]):
            wanted = pc.and_(pc.equal(batch["relation"], relation), pc.less(batch["rank"], count))
            feature, rank, other = (batch[name].filter(wanted).to_numpy() for name in ("feature", "rank", "other"))
            other_Fn[feature, rank] = other
        return other_Fn

    def count_contexts(self, kinds: Sequence[str]) -> NDArray[np.int64]:
        """How many contexts of some kinds each feature has [F]."""
        count_F = np.zeros(self.num_features, dtype=np.int64)
        for batch in self._contexts.batches(["feature", "kind"]):
            wanted = pc.is_in(batch["kind"], pa.array(kinds, pa.string()))
            count_F += np.bincount(batch["feature"].filter(wanted).to_numpy(), minlength=self.num_features)
        return count_F

    def _as_rows(self, features_R: NDArray[np.int64], columns: Sequence[str] | None) -> list[Row]:
        columns = self._columns.shown if columns is None else columns
        lists = [name for name in columns if name in FEATURES.names and name not in FEATURES.single]
        singles = {name: self._columns.take(name, features_R) for name in columns if name not in lists}
        numbers = pa.array(features_R, pa.int32())
        rows: list[Row] = pa.table({"feature": numbers, **singles}).to_pylist()
        for row in rows if lists else ():
            row |= self._features.read(row["feature"], row["feature"] + 1, lists).to_pylist()[0]
        return rows

    def _rows(
        self, table: TableReader, feature: int, limits: Limits | None = None, columns: Sequence[str] | None = None
    ) -> list[Row]:
        self._check(feature)
        found = table.read(feature, feature + 1, columns)
        rows: list[Row] = _limited(found if columns is None else found.select(columns), limits).to_pylist()
        return rows

    def _label(self, feature: int) -> Row:
        """The columns of labels of a feature; empty where nothing was explained."""
        if self._labels is None:
            return {}
        rows = self._labels.read(feature, feature + 1, _LABELS).to_pylist()
        return {name: rows[0][name] if rows else None for name in _LABELS}

    def _check(self, feature: int) -> None:
        if not _is_whole(feature) or not 0 <= feature < self.num_features:
            message = (
                f"{self.artifact.uri} has no feature {shortened(feature)}: there are 0 to {self.num_features - 1}."
            )
            raise NotFound(message)


def _is_whole(feature: object) -> bool:
    return isinstance(feature, Integral)


def _check_together(
    features: Artifact,
    explanations: Artifact | None = None,
    scores: Artifact | None = None,
    trials: Artifact | None = None,
) -> None:
    given = {"features": features, "explanations": explanations, "scores": scores, "trials": trials}
    before: Artifact | None = None
    for kind, artifact in given.items():
        if artifact is None:
            continue
        if artifact.manifest.short_kind != kind:
            message = f"{artifact.uri} is of kind {artifact.manifest.kind}, but kind {kind} is needed here."
            raise InputError(message)
        check_version(artifact.uri, artifact.manifest.kind)
        of = artifact.manifest.inputs.get(before.manifest.short_kind) if before is not None else None
        if before is not None and of is not None and of.digest != before.digest:
            message = f"{artifact.uri} is of {of.uri}, not of {before.uri}: give those that belong together."
            raise InputError(message)
        before = artifact


def _limited(contexts: pa.Table, limits: Limits | None) -> pa.Table:
    if limits is None:
        return contexts
    kind, rank = contexts["kind"], contexts["rank"]
    parts = [pc.and_(pc.equal(kind, name), pc.less(rank, most)) for name, most in limits.items()]
    return contexts.filter(reduce(pc.or_, parts)) if parts else contexts.slice(0, 0)


def _following(groups: Iterator[pa.Table], limits: Limits | None = None) -> Callable[[int], list[Row]]:
    """A function that gives the rows of a feature; it is to be asked for features in rising order."""
    rows = (row for group in groups for row in _limited(group, limits).to_pylist())
    by_feature = groupby(rows, key=itemgetter("feature"))
    waiting = next(by_feature, None)

    def follow(feature: int) -> list[Row]:
        nonlocal waiting
        while waiting is not None and waiting[0] < feature:
            waiting = next(by_feature, None)
        return list(waiting[1]) if waiting is not None and waiting[0] == feature else []

    return follow


def _by_relation(rows: list[Row]) -> Neighbours:
    relations: Neighbours = {}
    for row in rows:
        relations.setdefault(row["relation"], []).append((row["other"], row["value"]))
    return relations
