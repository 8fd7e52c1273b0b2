"""A feature set against the tables read whole; what it reads, and that threads and read-only users may share it."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mistudio.artifacts import Artifact, open_artifact, open_store
from mistudio.errors import DamagedArtifact, InputError, NotFound
from mistudio.features import CONTEXTS, FEATURES, Condition, FeatureSet
from mistudio.features import tables as tables_module
from tests.support.contexts import read_contexts
from tests.support.found import NUM_FEATURES

Row = dict[str, Any]


def of_feature(rows: list[Row], feature: int) -> list[Row]:
    return [row for row in rows if row["feature"] == feature]


def whole(artifact: Artifact, name: str) -> list[Row]:
    rows: list[Row] = pq.read_table(artifact.file(name)).to_pylist()
    return rows


def test_a_feature_is_what_the_tables_say_of_it(features: Artifact) -> None:
    found = FeatureSet(features)
    rows, places, near = (whole(features, f"{name}.parquet") for name in ("features", "map", "neighbours"))
    contexts = read_contexts(features).to_pylist()
    assert len(features.paths("contexts/")) > 3
    for feature in range(NUM_FEATURES):
        assert str(found.row(feature)) == str(rows[feature] | places[feature])
        assert str(found.contexts(feature)) == str(of_feature(contexts, feature))  # as text, where NaN equals NaN
        expected: dict[str, list[tuple[int, float]]] = {}
        for row in of_feature(near, feature):
            expected.setdefault(row["relation"], []).append((row["other"], row["value"]))
        assert found.neighbours(feature) == expected


def test_contexts_can_be_limited_by_kind(features: Artifact) -> None:
    found = FeatureSet(features)
    for feature in (0, 20, 63):
        some = found.contexts(feature, {"top": 2, "hard_negative": 1})
        expected = [
            row
            for row in found.contexts(feature)
            if (row["kind"] == "top" and row["rank"] < 2) or (row["kind"] == "hard_negative" and row["rank"] < 1)
        ]
        assert str(some) == str(expected)
        assert found.contexts(feature, {}) == []


@pytest.mark.parametrize(("first", "stop"), [(0, None), (0, 1), (9, 31), (20, 20), (63, 64), (40, 1000)])
def test_a_stream_gives_the_features_of_any_range_as_they_are_alone(
    features: Artifact, first: int, stop: int | None
) -> None:
    found = FeatureSet(features)
    streamed = list(found.stream(first, stop))
    assert [each.feature for each in streamed] == list(range(NUM_FEATURES))[first:stop]
    for each in streamed:
        assert str(each.contexts) == str(found.contexts(each.feature))
        assert each.neighbours == found.neighbours(each.feature)
        assert each.row.items() <= found.row(each.feature).items()


def test_a_stream_has_the_columns_and_contexts_that_were_asked_for(features: Artifact) -> None:
    stream = FeatureSet(features).stream(
        5, 15, columns=["max"], context_columns=["peak"], limits={"random": 3}, neighbours=False
    )
    for each in stream:
        assert set(each.row) == {"feature", "max"}
        assert {row["kind"] for row in each.contexts} <= {"random"}
        assert all(set(row) == {"feature", "kind", "rank", "peak"} for row in each.contexts)
        assert len(each.contexts) <= 3
        assert each.neighbours == {}


def test_nearest_and_counts_are_those_of_the_tables(features: Artifact) -> None:
    found = FeatureSet(features)
    nearest_Fn, count_F = found.nearest("correlation", 3), found.count_contexts(["top", "random"])
    for feature in range(NUM_FEATURES):
        others = [other for other, _ in found.neighbours(feature).get("correlation", [])][:3]
        assert nearest_Fn[feature].tolist() == others + [-1] * (3 - len(others))
        assert count_F[feature] == sum(row["kind"] in ("top", "random") for row in found.contexts(feature))


def test_explanations_and_scores_are_those_of_the_feature(told: FeatureSet) -> None:
    assert told.explained is not None
    assert told.scored is not None
    rows = whole(told.explained, "explanations.parquet") + whole(told.explained, "token_sets.parquet")
    scores = whole(told.scored, "scores.parquet")
    for feature in (0, 2, 4, 39):
        assert told.explanations(feature) == of_feature(rows, feature)
        assert str(told.scores(feature)) == str(of_feature(scores, feature))
    assert told.row(2)["label"] == "what a person saw"
    assert told.row(4)["label"] is None


def test_without_explanations_and_scores_there_are_none(features: Artifact) -> None:
    found = FeatureSet(features)
    assert found.explanations(3) == found.scores(3) == []
    assert not {"label", "text", "score"} & set(found.names)
    with pytest.raises(InputError, match="no column 'label'"):
        found.column("label")


def test_columns_have_one_value_a_feature(told: FeatureSet) -> None:
    for name in told.names:
        assert len(told.column(name)) == told.num_features, name
    assert told.column("label")[2].as_py() == "what a person saw"
    assert told.column("text")[3].as_py() == told.explanations(3)[0]["text"]
    assert told.column("text")[4].as_py() is None  # dead
    by_figure = {(row["explainer"], row["scorer"], row["metric"]): row["value"] for row in told.scores(7)}
    assert told.column("score")[7].as_py() == by_figure["program", "program", "f1"]
    for figure, value in by_figure.items():
        assert told.column("/".join(figure))[7].as_py() == value
    assert told.column("program/detection/balanced_accuracy")[4].as_py() is None  # it was not asked
    assert math.isnan(told.column("score")[4].as_py())


def test_a_page_holds_what_matches_in_the_order_that_was_asked_for(told: FeatureSet) -> None:
    density_F = told.column("density").to_numpy()
    low = float(np.quantile(density_F, 0.3))
    page = told.page([Condition("density", ">", low)], [("score", "descending")], offset=3, limit=5)
    score_F = told.column("score").to_numpy()
    matching = [feature for feature in np.argsort(-score_F, kind="stable").tolist() if density_F[feature] > low]
    assert page.total == len(matching)
    assert [row["feature"] for row in page.rows] == matching[3:8]
    assert [row["density"] for row in page.rows] == density_F[matching[3:8]].tolist()
    assert {"label", "score", "cluster", "max"} <= set(page.rows[0])


def test_features_without_a_value_come_last_either_way_and_like_ones_by_number(told: FeatureSet) -> None:
    for direction in ("ascending", "descending"):
        page = told.page(order=[("cluster", direction)], limit=100)
        clusters = [row["cluster"] for row in page.rows]
        known = [each for each in clusters if each is not None]
        assert known == sorted(known, reverse=direction == "descending")
        assert clusters[len(known) :] == [None] * 13
        for cluster in (0, 1, None):
            own = [row["feature"] for row in page.rows if row["cluster"] == cluster]
            assert own == sorted(own)


def test_conditions_hold_together_and_texts_are_searched_in_either_case(told: FeatureSet) -> None:
    page = told.page([Condition("text", "contains", "NUMBER-1"), Condition("feature", "<", 13)], columns=["text"])
    assert [row["feature"] for row in page.rows] == [1, 10, 11, 12]
    assert set(page.rows[0]) == {"feature", "text"}
    assert told.page([Condition("label", "==", "what a person saw")]).total == 1
    assert told.page([Condition("cluster", "!=", 0)]).total == 13  # a feature in no cluster does not match


def test_a_page_can_have_lists_too_and_lie_behind_the_end(told: FeatureSet) -> None:
    (row,) = told.page(offset=7, limit=1, columns=["count", "promoted_tokens"]).rows
    assert row["promoted_tokens"] == told.row(7)["promoted_tokens"]
    assert list(row) == ["feature", "count", "promoted_tokens"]
    assert told.page(offset=100).rows == []


def test_a_page_that_cannot_be_made_is_refused(told: FeatureSet) -> None:
    with pytest.raises(InputError, match="no column 'colour'"):
        told.page([Condition("colour", "==", "red")])
    with pytest.raises(InputError, match="'~' is no comparison: use ==, !="):
        told.page([Condition("density", "~", 1)])
    with pytest.raises(InputError, match="cannot be tried with contains"):
        told.page([Condition("density", "contains", "1")])
    with pytest.raises(InputError, match="no column 'histogram' of one value"):
        told.page(order=[("histogram", "ascending")])
    for count in ({"offset": -1}, {"limit": -1}):
        with pytest.raises(InputError, match="give 0 or more"):
            told.page(**count)


def test_what_is_not_of_one_search_is_refused(told: FeatureSet, features: Artifact) -> None:
    explained, scored = told.explained, told.scored
    assert explained is not None
    assert scored is not None
    with pytest.raises(InputError, match="kind features is needed"):
        FeatureSet(explained)
    with pytest.raises(InputError, match="kind explanations is needed"):
        FeatureSet(features, scored)
    ref = explained.manifest.inputs["features"].model_copy(update={"digest": "0" * 64})
    other = replace(explained, manifest=explained.manifest.model_copy(update={"inputs": {"features": ref}}))
    with pytest.raises(InputError, match="give those that belong together"):
        FeatureSet(told.artifact, other)
    old = replace(features, manifest=features.manifest.model_copy(update={"kind": "mistudio.features/1"}))
    with pytest.raises(InputError, match="made by an older miStudio"):
        FeatureSet(old)


def test_a_feature_that_there_is_not_is_refused(features: Artifact) -> None:
    found = FeatureSet(features)
    for feature in (-1, NUM_FEATURES, "1", 1.5, None):
        with pytest.raises(NotFound, match=rf"no feature {feature!r}: there are 0 to 63"):
            found.row(feature)


def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each row group that is read from now on."""
    seen: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, group: int, *arguments: Any, **options: Any) -> Any:
        seen.append(self.metadata.row_group(group).num_rows)
        return read(self, group, *arguments, **options)

    monkeypatch.setattr(tables_module.pq.ParquetFile, "read_row_group", counting)
    return seen


def test_one_feature_is_one_row_group_of_each_table(features: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FeatureSet(features)
    seen = rows_read(monkeypatch)
    found.row(33)
    assert len(seen) == 2  # its row, and its place on the map
    found.contexts(33)
    found.neighbours(33)
    assert len(seen) == 4
    assert sum(seen) < 10 + 20 + 100 + 7 * 40 + 1


def test_blocks_together_read_no_more_than_the_tables_have(features: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FeatureSet(features)
    seen = rows_read(monkeypatch)
    for first in range(0, NUM_FEATURES, 10):  # features share row groups by ten, contexts by two
        list(found.stream(first, first + 10, neighbours=False))
    assert sum(seen) == NUM_FEATURES + len(read_contexts(features))


def test_nothing_is_opened_before_it_is_asked_for(features: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    file = Artifact.file
    monkeypatch.setattr(Artifact, "file", lambda self, path: opened.append(path) or file(self, path))
    found = FeatureSet(features)
    assert opened == []
    found.contexts(12)
    assert opened == ["contexts/0000010.parquet"]
    found.contexts(13)
    assert len(opened) == 1


def test_threads_may_share_a_feature_set(features: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, shared = FeatureSet(features), FeatureSet(features)
    expected = {feature: str(looked_at(alone, feature)) for feature in range(NUM_FEATURES)}
    footers: list[Path] = []
    read_metadata = pq.read_metadata
    monkeypatch.setattr(tables_module.pq, "read_metadata", lambda path: footers.append(path) or read_metadata(path))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(NUM_FEATURES), 4)).tolist()
    with ThreadPoolExecutor(8) as pool:
        for feature, seen in zip(order, pool.map(lambda each: str(looked_at(shared, each)), order), strict=True):
            assert seen == expected[feature]
    assert len(footers) == len(set(footers))


def looked_at(found: FeatureSet, feature: int) -> tuple[Any, ...]:
    page = found.page([Condition("count", ">", 0)], [("max", "descending")], limit=3)
    return found.row(feature), found.contexts(feature), found.neighbours(feature), page


def test_a_store_that_is_open_for_reading_alone_is_enough(told: FeatureSet) -> None:
    assert told.explained is not None
    assert told.scored is not None
    store = open_store(told.artifact.store.url, mode="r")
    kinds = {"features": told.artifact, "explanations": told.explained, "scores": told.scored}
    found = FeatureSet(*(open_artifact(store, each.uri, kind) for kind, each in kinds.items()))
    before = sorted(file.name for file in store.stat(""))
    for feature in range(5):
        assert str(looked_at(found, feature)) == str(looked_at(told, feature))
        assert str(found.scores(feature)) == str(told.scores(feature))
        assert found.explanations(feature) == told.explanations(feature)
    assert str(found.page(order=[("score", "descending")])) == str(told.page(order=[("score", "descending")]))
    assert sorted(file.name for file in store.stat("")) == before


def test_a_damaged_table_is_refused_when_it_is_first_looked_at(told: FeatureSet) -> None:
    path = told.artifact.file(FEATURES.name)
    good = path.read_bytes()
    found = FeatureSet(open_artifact(told.artifact.store, told.artifact.uri, "features"))
    try:
        path.write_bytes(good[:-1])
        found.contexts(3)
        with pytest.raises(DamagedArtifact, match=r"features\.parquet"):
            found.row(3)
    finally:
        path.write_bytes(good)


def test_contexts_lie_in_files_that_are_named_by_their_first_feature(features: Artifact) -> None:
    for path in features.paths("contexts/"):
        table = pq.read_table(features.file(path))
        assert table.schema.equals(CONTEXTS.schema)
        first = int(Path(path).stem)
        assert first <= min(table["feature"].to_pylist())
        assert max(table["feature"].to_pylist()) < first + 10
