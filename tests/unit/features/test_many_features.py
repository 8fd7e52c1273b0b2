"""A feature set of many features: how few row groups a look reads, and columns that lie in files."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.artifacts import Artifact, Draft, Recipe, open_store, produce
from mistudio.artifacts.scratch import scratch_folder
from mistudio.features import EXPLANATIONS, FEATURES, SCORES, Condition, FeatureSet, column_files, columns, layout
from mistudio.features import tables as tables_module
from mistudio.features.column_files import ColumnFiles, in_blocks, spread
from mistudio.features.layout import part_names, parts_of, write_rows
from mistudio.features.merging import merged
from tests.support.feature_tables import EXPLAINERS, label_of, publish_feature_tables, score_of

NUM_FEATURES, OF_FILE, BLOCK = 1_000, 300, 128
Look = Callable[[FeatureSet, int], Any]
LOOKS: dict[str, tuple[Look, int]] = {  # with the row groups that it may read
    "row": (FeatureSet.row, 3),  # the feature, its place on the map, its label
    "contexts": (FeatureSet.contexts, 1),
    "neighbours": (FeatureSet.neighbours, 1),
    "explanations": (FeatureSet.explanations, 1),
    "scores": (FeatureSet.scores, 1),
    "label": (FeatureSet.label, 1),
    "maximum": (FeatureSet.maximum, 1),
}


@pytest.fixture(scope="module")
def small_files() -> Iterator[None]:
    """What a million features have at a thousand: many files, and columns that do not stay in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "FEATURES_OF_FILE", OF_FILE)
        patch.setattr(columns, "KEPT_FEATURES", 0)
        patch.setattr(column_files, "BLOCK", BLOCK)
        yield


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, small_files: None) -> FeatureSet:
    return publish_feature_tables(open_store(str(tmp_path_factory.mktemp("many"))), NUM_FEATURES)


def anew(found: FeatureSet) -> FeatureSet:
    return FeatureSet(found.artifact, found.explained, found.scored)


def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Footers and row groups that are read from now on, and the rows in those."""
    seen = Counter[str]()
    read_group, read_metadata = pq.ParquetFile.read_row_group, pq.read_metadata

    def group(self: pq.ParquetFile, number: int, *arguments: Any, **options: Any) -> Any:
        seen["groups"] += 1
        seen["features"] += len(set(read_group(self, number, ["feature"])["feature"].to_pylist()))
        return read_group(self, number, *arguments, **options)

    def metadata(path: Path) -> pq.FileMetaData:
        seen["footers"] += 1
        return read_metadata(path)

    monkeypatch.setattr(tables_module.pq.ParquetFile, "read_row_group", group)
    monkeypatch.setattr(tables_module.pq, "read_metadata", metadata)
    monkeypatch.setattr(
        tables_module.pq.ParquetFile, "read_row_groups", lambda *_: pytest.fail("many row groups are read")
    )
    return seen


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_reads_a_footer_and_a_row_group_of_each_table(
    many: FeatureSet, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, most = LOOKS[name]
    for feature in (0, 299, 300, 777, 999):
        with monkeypatch.context() as patch:
            seen = reads(patch)
            look(anew(many), feature)
            assert seen["footers"] == seen["groups"] == most
            assert seen["features"] <= most * OF_FILE


def test_a_look_reads_a_small_part_of_the_bytes(many: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    file = Artifact.file
    monkeypatch.setattr(Artifact, "file", lambda self, path: opened.append(path) or file(self, path))
    found = anew(many)
    for look, _ in LOOKS.values():
        look(found, 777)
    tables = {path.split("/")[0] for path in opened}
    assert tables == {"features", "map", "labels", "contexts", "neighbours", "explanations", "scores"}
    assert all(path.endswith("/0000600.parquet") for path in opened), opened


def test_what_is_said_of_a_feature_is_what_was_published(many: FeatureSet) -> None:
    for feature in (0, 299, 300, 777, 999):
        assert many.row(feature)["label"] == many.label(feature) == label_of(feature)
        assert [row["explainer"] for row in many.explanations(feature)] == list(EXPLAINERS)
        values = [row["value"] for row in many.scores(feature) if row["metric"] == "f1"]
        assert values == pytest.approx([score_of(feature)] * len(EXPLAINERS))
        assert many.maximum(feature) == many.row(feature)["max"] == many.column("max")[feature].as_py()
        assert {row["feature"] for row in many.contexts(feature)} == {feature}


def test_footers_that_are_kept_do_not_grow_with_the_features(many: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "_FOOTERS_KEPT", 2)
    found = anew(many)
    for feature in range(0, NUM_FEATURES, 100):
        found.row(feature)
    assert len(found._features._files) == 2


def test_columns_in_files_are_those_in_memory(many: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = np.array([999, 0, 128, 127, 500, 0])
    in_files = {name: many.column(name).to_pylist() for name in many.names}
    rows, page = many.rows(taken.tolist()), a_page(many)
    monkeypatch.setattr(columns, "KEPT_FEATURES", NUM_FEATURES)
    whole = anew(many)
    for name, values in in_files.items():
        assert str(whole.column(name).to_pylist()) == str(values), name
        assert len(values) == NUM_FEATURES
    assert str(whole.rows(taken.tolist())) == str(rows)
    assert [row["feature"] for row in rows] == taken.tolist()
    assert str(a_page(whole)) == str(page)
    assert page.total > len(page.rows) == 7


def a_page(found: FeatureSet) -> Any:
    where = [Condition("density", ">", 0.3), Condition("label", "contains", "WORD1")]
    order = [("cluster", "descending"), ("score", "ascending")]
    return found.page(where, order, offset=5, limit=7)


def test_a_page_holds_one_block_of_a_column_at_a_time(many: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    a_page(many)  # the columns are made
    sizes: list[int] = []
    read = column_files.ColumnFile.blocks

    def watched(self: column_files.ColumnFile) -> Iterator[pa.Array]:
        for block in read(self):
            sizes.append(len(block))
            yield block

    monkeypatch.setattr(column_files.ColumnFile, "blocks", watched)
    monkeypatch.setattr(columns.Columns, "get", lambda *_: pytest.fail("a whole column is read"))
    a_page(anew(many))
    assert max(sizes) == BLOCK
    assert sum(sizes) == 5 * NUM_FEATURES


def test_columns_are_made_once_for_all_processes(many: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = a_page(many)
    monkeypatch.setattr(columns.Columns, "_read", lambda *_: pytest.fail("a column is made again"))
    assert str(a_page(anew(many))) == str(expected)
    files = list((scratch_folder(many.artifact.store) / columns.FOLDER).glob("*"))
    assert {path.suffix for path in files} == {".arrow"}
    assert all(path.stat().st_mode & 0o77 == 0 for path in files)


def test_tables_that_lie_by_explainer_are_read_as_those_that_lie_by_feature(many: FeatureSet, tmp_path: Path) -> None:
    """As they were published before."""
    assert many.explained is not None
    assert many.scored is not None
    older = copied(many.explained, EXPLANATIONS, "explainer", many.artifact)
    scored = copied(many.scored, SCORES, "scorer", older)
    found = FeatureSet(many.artifact, older, scored)
    for feature in (0, 299, 300, 999):
        said = sorted(many.explanations(feature), key=itemgetter("explainer"))
        assert found.explanations(feature) == said
        by_figure = {(row["explainer"], row["scorer"], row["metric"]): row for row in many.scores(feature)}
        assert {(row["explainer"], row["scorer"], row["metric"]): row for row in found.scores(feature)} == by_figure
    for name in ("text", "score", "program/detection/balanced_accuracy"):
        assert found.column(name).equals(many.column(name)), name


def copied(artifact: Artifact, table: Any, order: str, of: Artifact) -> Artifact:
    rows = pa.concat_tables(pq.read_table(artifact.file(path)) for path in parts_of(artifact, table))

    def build(draft: Draft) -> dict[str, Any]:
        with draft.stage(table.name) as path:
            pq.write_table(rows.sort_by([(order, "ascending"), ("feature", "ascending")]), path, row_group_size=100)
        for name in artifact.paths("labels/") + artifact.paths("scores.json"):
            draft.write(name, artifact.file(name).read_bytes())
        return {"features": NUM_FEATURES}

    role = of.manifest.short_kind
    recipe = Recipe(kind=artifact.manifest.short_kind, config={"older": True}, inputs={role: of.ref})
    return produce(artifact.store, recipe, "explain", build).artifact


def test_a_column_file_that_nobody_used_makes_room(tmp_path: Path) -> None:
    files = ColumnFiles(tmp_path, most_bytes=30_000)
    for number, key in enumerate("abc"):
        made = files.get(key, lambda: [pa.array(np.arange(1_000))])
        os.utime(made.path, (number, number))
    assert files.find("a") is not None  # which was used now
    files.get("d", lambda: [pa.array(np.arange(1_000))])
    assert [files.find(key) is not None for key in "abcd"] == [True, False, True, True]


def test_where_the_folder_cannot_be_written_columns_are_made_for_this_process(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    files = ColumnFiles(tmp_path / "file" / "columns")
    assert next(iter(files.get("a", lambda: [pa.array([1, 2])]).blocks())).to_pylist() == [1, 2]
    assert files.find("a") is not None


def test_a_column_that_fails_while_it_is_made_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[pa.Array]:
        yield pa.array([1])
        raise OSError

    files = ColumnFiles(tmp_path)
    with pytest.raises(OSError):  # noqa: PT011
        files.get("a", failing)
    assert list(tmp_path.iterdir()) == []


def test_values_are_spread_over_all_features_and_the_first_of_a_feature_counts(small_files: None) -> None:
    draw = np.random.default_rng(0)
    feature = np.sort(draw.integers(0, 400, 300))
    value = np.arange(300)
    expected: list[int | None] = [None] * 500
    for number, each in zip(feature[::-1].tolist(), value[::-1].tolist(), strict=True):
        expected[number] = each
    for at_once in (1, 7, 300):
        parts = [slice(start, start + at_once) for start in range(0, 300, at_once)]
        rows = [(pa.array(feature[part]), pa.array(value[part])) for part in parts]
        blocks = list(spread(rows, 500, pa.int64()))
        assert [len(block) for block in blocks] == [128, 128, 128, 116]
        assert pa.concat_arrays(blocks).to_pylist() == expected
        assert [len(block) for block in in_blocks(blocks)] == [128, 128, 128, 116]
    assert pa.concat_arrays(list(spread([], 200, pa.int64()))).null_count == 200


def test_streams_by_feature_are_merged_in_their_order() -> None:
    draw = np.random.default_rng(1)
    streams = []
    for stream in range(3):
        rows = [{"feature": each, "stream": stream} for each in sorted(draw.integers(0, 5_000, 400).tolist())]
        streams.append([pa.Table.from_pylist(rows[start : start + 90]) for start in range(0, 400, 90)])
    found = pa.concat_tables(merged(streams)).to_pylist()
    everything = [row for stream in streams for table in stream for row in table.to_pylist()]
    assert found == sorted(everything, key=lambda row: row["feature"])


def test_every_file_of_a_table_is_written_also_where_it_holds_nothing(tmp_path: Path, small_files: None) -> None:
    def build(draft: Draft) -> dict[str, Any]:
        rows = FEATURES.build({"feature": [5, 310, 311, 640]})
        assert write_rows(draft, FEATURES, 1_000, 10, [rows]) == part_names(FEATURES, 1_000)
        return {"features": 1_000}

    store = open_store(str(tmp_path))
    made = produce(store, Recipe(kind="features", config={}, inputs={}), "find", build).artifact
    assert parts_of(made, FEATURES) == [f"features/{first:07d}.parquet" for first in (0, 300, 600, 900)]
    held = [pq.read_table(made.file(path))["feature"].to_pylist() for path in parts_of(made, FEATURES)]
    assert held == [[5], [310, 311], [640], []]
