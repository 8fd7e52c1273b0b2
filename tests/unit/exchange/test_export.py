"""Export of features: keys and types against real files, numbers against the tables, and what is refused."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from mistudio.artifacts import Artifact, open_input
from mistudio.cli import app
from mistudio.errors import ConfigError, InputError, StorageError
from mistudio.exchange import FORMATS, Names, export_features, names_of
from mistudio.exchange import export as export_module
from mistudio.exchange.neuronpedia import _without_nul
from mistudio.explain import read_explanations
from mistudio.sae import load_autoencoder
from tests.support.contexts import read_contexts
from tests.support.found import NUM_FEATURES, NUM_SILENT
from tests.support.tiny_run import TinyRun

SAMPLES = Path(__file__).parents[3] / ".." / "shared" / "data" / "formats" / "saedashboard"
NAMES = Names(model_id="tiny-llama", source_set="res-ours")
SOURCE = Path("v1/tiny-llama/1-res-ours")

# The columns of Neuronpedia's own export that a database needs; others of ours are columns of the same tables.
COLUMNS = {
    "features": """modelId layer index maxActApprox creatorId frac_nonzero freq_hist_data_bar_heights
        freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values neuron_alignment_indices
        neuron_alignment_l1 neuron_alignment_values correlated_neurons_indices correlated_neurons_l1
        correlated_neurons_pearson decoder_weights_dist neg_str neg_values pos_str pos_values sourceSetName
        topkCosSimIndices topkCosSimValues vector vectorLabel hookName hasVector""",
    "activations": """id modelId layer index creatorId dataSource tokens maxValue minValue values maxValueTokenIndex
        dfaValues dfaMaxValue dfaTargetIndex binContains binMin binMax""",
    "explanations": """id modelId layer index authorId description embedding typeName explanationModelName umap_x umap_y
        umap_cluster umap_log_feature_sparsity""",
}


def kinds(value: Any, place: str = "") -> dict[str, set[str]]:
    """The types at each place of a JSON document, those of list entries together; order of keys counts."""
    found: dict[str, set[str]] = defaultdict(set)
    if isinstance(value, dict):
        found[place].add(f"object {list(value)}")
        parts = [(f"{place}.{name}", each) for name, each in value.items()]
    else:
        found[place].add("list" if isinstance(value, list) else type(value).__name__)
        parts = [(f"{place}[]", each) for each in value] if isinstance(value, list) else []
    for inner, each in parts:
        for where, types in kinds(each, inner).items():
            found[where] |= types
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def batch(llama: TinyRun, features: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("out") / "batches"
    export_features(llama.store, features, folder, "neuronpedia-batch", names=NAMES)
    assert [path.name for path in folder.iterdir()] == ["batch-0.json"]
    return json.loads((folder / "batch-0.json").read_text())


@pytest.fixture(scope="module")
def tree(llama: TinyRun, features: Artifact, explanations: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "tree"
    exported = export_features(llama.store, features, folder, "neuronpedia", explanations, names=NAMES)
    assert exported.folder == folder / SOURCE
    assert exported.num_files == len(contents(folder)) == 7
    return folder / SOURCE


def test_upload_batches_have_the_keys_and_types_of_real_ones(batch: dict[str, Any]) -> None:
    paths = sorted(SAMPLES.glob("batch-*.json"))
    if not paths:
        pytest.skip("no samples of upload batches here")
    real: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        for place, types in kinds(json.loads(path.read_text())).items():
            real[place] |= types
    ours = kinds(batch)
    assert set(ours) <= set(real)
    missing = set(real) - set(ours)
    assert {place for place in missing if not place.endswith("[]")} == set()  # lists may be empty
    for place, types in ours.items():
        assert types <= real[place] | ({"int"} if "float" in real[place] else set()), place


def test_batches_say_what_the_tables_say(features: Artifact, batch: dict[str, Any]) -> None:
    assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("tiny-llama", 1, "res-ours")
    table = pq.read_table(features.file("features.parquet")).to_pylist()
    num_tokens = int(str(features.manifest.summary["tokens"]))
    assert [each["feature_index"] for each in batch["features"]] == list(range(NUM_FEATURES))
    for row, each in zip(table, batch["features"], strict=True):
        assert each["pos_str"] == [token.replace("\0", "␀") for token in row["promoted_tokens"]]
        assert each["neg_values"] == pytest.approx(row["suppressed_logits"], rel=1e-5)
        assert each["frac_nonzero"] == row["density"]
        assert sum(each["freq_hist_data_bar_heights"]) == row["count"]
        assert len(each["freq_hist_data_bar_values"]) == (50 if row["count"] else 0)
        intervals = {(a["bin_min"], a["bin_contains"]) for a in each["activations"] if a["bin_min"] != -1}
        assert sum(share for _, share in intervals) <= 1 + 1e-5
        lowest = [share for start, share in intervals if start == 0]
        assert all(share >= 1 - row["count"] / num_tokens - 1e-5 for share in lowest)


def test_contexts_lie_in_the_interval_that_they_name(features: Artifact, batch: dict[str, Any]) -> None:
    table = read_contexts(features).to_pylist()
    written = [each for feature in batch["features"] for each in feature["activations"]]
    shown = [row for row in table if row["kind"] != "hard_negative"]
    assert [each["tokens"] for each in written] == [
        [token.replace("\0", "␀") for token in row["tokens"]] for row in shown
    ]
    maxima = pq.read_table(features.file("features.parquet"))["max"].to_pylist()
    for row, each in zip(shown, written, strict=True):
        peak = each["values"][each["qualifying_token_index"]]
        assert peak == pytest.approx(row["value"], rel=1e-5)
        if row["kind"] == "top":
            assert (each["bin_min"], each["bin_contains"]) == (-1, -1)
            assert each["bin_max"] == pytest.approx(maxima[row["feature"]], rel=1e-5)
        else:
            assert each["bin_min"] <= peak * (1 + 1e-5)
            assert peak <= each["bin_max"] * (1 + 1e-5)


def test_a_feature_that_never_fires_is_there_without_bars(batch: dict[str, Any]) -> None:
    for each in batch["features"][:NUM_SILENT]:
        assert each["frac_nonzero"] == 0
        assert each["freq_hist_data_bar_heights"] == []
        assert {value for activation in each["activations"] for value in activation["values"]} <= {0.0}


def test_aligned_dimensions_are_the_largest_of_the_decoder(llama: TinyRun, features: Artifact, batch: dict) -> None:
    sae = load_autoencoder(open_input(llama.store, features.manifest.inputs["sae"], "sae"))
    for feature in (0, 17, 63):
        row, each = sae.W_dec[feature].detach(), batch["features"][feature]
        assert each["neuron_alignment_indices"] == row.topk(3).indices.tolist()
        assert each["neuron_alignment_values"] == pytest.approx(row.topk(3).values.tolist(), rel=1e-5)
        shares = row.topk(3).values / torch.linalg.vector_norm(row, 1)
        assert each["neuron_alignment_l1"] == pytest.approx(shares.tolist(), rel=1e-5)


def test_the_tree_holds_what_the_batches_hold(tree: Path, batch: dict[str, Any], features: Artifact) -> None:
    rows, activations = lines(tree / "features/batch-0.jsonl.gz"), lines(tree / "activations/batch-0.jsonl.gz")
    assert [row["index"] for row in rows] == [str(feature) for feature in range(NUM_FEATURES)]
    same = set(rows[0]) & set(batch["features"][0])
    assert {"pos_str", "frac_nonzero", "freq_hist_data_bar_heights", "neuron_alignment_l1"} <= same
    for row, each in zip(rows, batch["features"], strict=True):
        assert {name: row[name] for name in same} == {name: each[name] for name in same}
        own = [activation for activation in activations if activation["index"] == row["index"]]
        assert [a["values"] for a in own] == [a["values"] for a in each["activations"]]
        assert all(a["maxValue"] == a["values"][a["maxValueTokenIndex"]] == max(a["values"]) for a in own)
    neighbours = pq.read_table(features.file("neighbours.parquet")).to_pylist()
    nearest = [row["other"] for row in neighbours if row["feature"] == 20 and row["relation"] == "decoder"]
    assert rows[20]["topkCosSimIndices"] == nearest
    assert rows[20]["hookName"] == "blocks.1.hook_resid_post"


def test_every_row_of_a_table_has_the_same_keys_and_a_key_of_its_own(tree: Path) -> None:
    for table in ("features", "activations", "explanations"):
        rows = lines(tree / table / "batch-0.jsonl.gz")
        assert {tuple(row) for row in rows} == {tuple(rows[0])}  # the first row says which columns are read
        assert {(row["modelId"], row["layer"]) for row in rows} == {("tiny-llama", "1-res-ours")}
        if "id" in rows[0]:
            assert len({row["id"] for row in rows}) == len(rows)


def test_the_tree_has_the_columns_of_neuronpedias_own_export(tree: Path) -> None:
    more = {
        "features": {f"correlated_features_{name}" for name in ("indices", "l1", "pearson")},
        "activations": {"qualifyingTokenIndex", "dataIndex"},
        "explanations": {"notes"},
    }
    for table, columns in COLUMNS.items():
        (first, *_) = lines(tree / table / "batch-0.jsonl.gz")
        assert set(first) == set(columns.split()) | more[table]
        assert isinstance(first["index"], str)


def test_the_tree_says_what_it_belongs_to(tree: Path) -> None:
    model, release, sourceset, source = (
        json.loads((tree / f"{name}.jsonl").read_text()) for name in ("model", "release", "sourceset", "source")
    )
    assert sourceset["modelId"] == source["modelId"] == model["id"] == "tiny-llama"
    assert sourceset["releaseName"] == release["name"]
    assert source["setName"] == sourceset["name"] == "res-ours"
    assert source["id"] == "1-res-ours"
    assert source["num_tokens_in_prompt"] == 24
    assert source["hasUmap"]


def test_explanations_come_with_their_text_and_those_without_are_counted(
    llama: TinyRun, features: Artifact, explanations: Artifact, tree: Path, tmp_path: Path
) -> None:
    told = [each for each in read_explanations(explanations) if each.status == "explained"]
    rows = lines(tree / "explanations/batch-0.jsonl.gz")
    assert [(row["index"], row["description"]) for row in rows] == [(str(each.feature), each.text) for each in told]
    # A method that Neuronpedia does not know would make its whole import fail.
    assert {row["typeName"] for row in rows} == {None}
    assert {json.loads(row["notes"])["explainer"] for row in rows} == {"program"}
    exported = export_features(llama.store, features, tmp_path / "again", "neuronpedia", explanations)
    assert exported.rows["explanations"] == len(told)
    assert exported.rows["left_out"] == NUM_FEATURES - len(told)
    assert exported.rows["left_out"] >= NUM_SILENT


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_same_export_is_the_same_bytes(
    llama: TinyRun, features: Artifact, explanations: Artifact, format_name: str, tmp_path: Path
) -> None:
    given = None if format_name == "neuronpedia-batch" else explanations
    for name in ("one", "two"):
        export_features(llama.store, features, tmp_path / name, format_name, given)
    assert contents(tmp_path / "one")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_batches_are_cut_by_number_of_features(
    llama: TinyRun, features: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_BATCH_FEATURES", 24)
    monkeypatch.setattr(export_module, "_TREE_ROWS", 24)
    export_features(llama.store, features, tmp_path / "batches", "neuronpedia-batch")
    batches = [json.loads((tmp_path / "batches" / f"batch-{number}.json").read_text()) for number in range(3)]
    assert [len(each["features"]) for each in batches] == [24, 24, 16]
    export_features(llama.store, features, tmp_path / "tree", "neuronpedia", names=NAMES)
    for table in ("features", "activations"):
        indices = [row["index"] for row in lines(tmp_path / "tree" / SOURCE / table / "batch-1.jsonl.gz")]
        assert list(dict.fromkeys(indices)) == [str(feature) for feature in range(24, 48)]


def test_tables_hold_all_rows_and_scores_bring_their_explanations(
    llama: TinyRun, features: Artifact, scores: Artifact, tmp_path: Path
) -> None:
    export_features(llama.store, features, tmp_path / "parquet", "parquet", scores=scores)
    export_features(llama.store, features, tmp_path / "jsonl", "jsonl", scores=scores)
    for name in ("features", "explanations", "labels", "scores"):
        table = pq.read_table(tmp_path / "parquet" / f"{name}.parquet").to_pylist()
        rows = [json.loads(line) for line in (tmp_path / "jsonl" / f"{name}.jsonl").read_text().splitlines()]
        assert rows
        as_json = json.loads(json.dumps(table), parse_constant=lambda _: None)  # what is not a number becomes null
        assert rows == as_json


def test_what_a_format_has_no_place_for_is_refused(
    llama: TinyRun, features: Artifact, explanations: Artifact, scores: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(ConfigError, match="neuronpedia-batch has no place for explanations"):
        export_features(llama.store, features, folder, "neuronpedia-batch", explanations)
    with pytest.raises(ConfigError, match="neuronpedia has no place for scores: leave them out, or use jsonl"):
        export_features(llama.store, features, folder, "neuronpedia", explanations, scores)
    with pytest.raises(ConfigError, match="'csv' is unknown: use one of neuronpedia, neuronpedia-batch, jsonl"):
        export_features(llama.store, features, folder, "csv")
    assert not folder.exists()


def test_explanations_of_other_features_are_refused(
    llama: TinyRun, other_features: Artifact, explanations: Artifact, scores: Artifact, tmp_path: Path
) -> None:
    for given in ((explanations, None), (None, scores)):
        with pytest.raises(InputError, match=rf"explains {explanations.manifest.inputs['features'].uri}, not"):
            export_features(llama.store, other_features, tmp_path / "out", "jsonl", *given)


def test_what_is_there_is_never_written_over(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_features(llama.store, features, tmp_path / "out", "parquet")  # an empty folder is free
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="already has files: choose an empty folder"):
        export_features(llama.store, features, tmp_path / "out", "parquet")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="already has another use"):
        export_features(llama.store, features, tmp_path / "file", "jsonl")
    with pytest.raises(StorageError, match=r"Cannot write .*file.below: Not a directory"):
        export_features(llama.store, features, tmp_path / "file" / "below", "jsonl")
    assert contents(tmp_path) == {**before, "file": b"mine"}


def test_an_export_that_fails_leaves_nothing(
    llama: TinyRun, features: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(export_module, "tree_activations", fail)
    with pytest.raises(RuntimeError):
        export_features(llama.store, features, tmp_path, "neuronpedia", names=NAMES)
    assert not contents(tmp_path)
    assert not list((tmp_path / SOURCE).parent.iterdir())


def test_names_that_neuronpedia_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match="takes no such names: model_id 'org/name'"):
        names_of(model_id="org/name")


def test_the_command_exports_and_says_what_it_wrote(
    llama: TinyRun, features: Artifact, explanations: Artifact, tmp_path: Path
) -> None:
    options = ["--features", features.uri, "--explanations", explanations.uri, "--store", llama.store.url]
    command = ["export", "features", str(tmp_path / "out"), "--to", "neuronpedia", *options, "--model-id", "tiny"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (source,) = (tmp_path / "out/v1/tiny").iterdir()
    assert source.name.startswith("1-res-mistudio-")
    assert "7 files: 64 features" in result.output
    wrong = CliRunner().invoke(app, ["export", "features", str(tmp_path / "x"), "--to", "jsonl", *_swapped(options)])
    assert "is of kind mistudio.explanations/2, but kind features is needed" in str(wrong.exception)


def _swapped(options: list[str]) -> list[str]:
    return ["--features", options[3], "--explanations", options[1], *options[4:]]


@pytest.mark.parametrize("value", ["a\0b", ["\0"], {"tokens": [["\0", "x"]], "n": 1.5}])
def test_no_row_holds_the_character_nul(value: object) -> None:
    row = _without_nul(lambda: {"value": value})()
    assert "\\u0000" not in json.dumps(row)
    assert "␀" in json.dumps(row, ensure_ascii=False)
