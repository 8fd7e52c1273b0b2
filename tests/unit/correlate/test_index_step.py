"""The step index: what it publishes, and that what is opened finds what brute force finds."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from kfp import dsl
from typer.testing import CliRunner

from components.images import BATCH_IMAGE
from components.index.component import index as component
from mistudio import steps
from mistudio.artifacts import Artifact, Draft, Recipe, Store, open_artifact, open_store, produce
from mistudio.cli import app
from mistudio.correlate.index import step as index_step
from mistudio.correlate.index.building import Decoder, build_index
from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.decoder_rows import mapped_decoder, mapped_encoder, scales
from mistudio.correlate.index.directions_index import ExactIndex, Nearest, open_index
from mistudio.correlate.index.faiss_index import FaissIndex
from mistudio.correlate.index.files import FAISS_NAME, RECORD_NAME
from mistudio.correlate.index.kinds import candidate_cosines, one_thread
from mistudio.correlate.index.queries import sample_queries
from mistudio.correlate.index.step import index
from mistudio.errors import ConfigError, DamagedArtifact, InputError, MistudioError, NotFound
from mistudio.sae import TopKConfig
from mistudio.sae.files import WEIGHTS_NAME
from mistudio.settings import validated
from mistudio.train import TrainConfig, train
from pipelines._kfp import run_here
from tests.support.decoders import decoder_rows, publish_decoder
from tests.support.tiny_run import HOOK, llama_run

FEATURES, WIDTH = 6_000, 32
KINDS = ("codes", "ivfpq", "hnsw")
EQUAL = 2e-6


def configured(kind: str, **others: Any) -> IndexConfig:
    return IndexConfig(kind=kind, **{"queries": 80, "construction": 40, **others})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("index") / "store"))


@pytest.fixture(scope="module")
def sae(store: Store) -> Artifact:
    return publish_decoder(store, decoder_rows(FEATURES, WIDTH))


@pytest.fixture
def own_store(tmp_path: Path, store: Store, sae: Artifact) -> Store:
    """A copy, to do anything to."""
    shutil.copytree(store.url, tmp_path / "own")
    return open_store(str(tmp_path / "own"))


def queries(sae: Artifact, count: int = 40, seed: int = 99) -> np.ndarray:
    made = sample_queries(mapped_decoder(sae), mapped_encoder(sae), count, seed)
    return np.concatenate(list(made.values()))


def share_found(found: Nearest, exact: Nearest) -> float:
    return float((found.cosine_QK >= exact.cosine_QK[:, -1:] - EQUAL).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_what_its_manifest_says_of_queries_that_it_never_saw(
    kind: str, store: Store, sae: Artifact
) -> None:
    made = index(store, sae, configured(kind)).artifact
    summary, found = made.manifest.summary, open_index(made)
    assert isinstance(found, FaissIndex)
    assert (summary["kind"], found.num_features, found.width) == (kind, FEATURES, WIDTH)
    assert summary["candidates"] * 4 < FEATURES  # so that it is the index that is tried, and not brute force
    kinds = {"random", "difference", "combination", "encoder", "row_20", "row_45", "row_70"}
    recalls = {name.removeprefix("recall_at_10."): value for name, value in summary.items() if "_10." in name}
    assert set(recalls) == kinds
    assert summary["recall_at_10"] == min(recalls.values()) >= 0.99
    assert {summary[f"queries.{each}"] for each in kinds} == {40}
    assert "warning" not in summary
    query_QD, exact = queries(sae), ExactIndex(mapped_decoder(sae))
    assert share_found(found.search(query_QD, 10), exact.search(query_QD, 10)) > 0.985
    assert share_found(found.search(query_QD[::9], 30), exact.search(query_QD[::9], 30)) > 0.985


@pytest.mark.parametrize("kind", KINDS)
def test_an_opened_index_gives_what_it_gave_in_memory(kind: str, store: Store, sae: Artifact) -> None:
    config, decoder_FD = configured(kind), mapped_decoder(sae)
    made = sample_queries(decoder_FD, mapped_encoder(sae), config.queries, 0)
    decoder = Decoder(decoder_FD, scales(decoder_FD), made, 0)
    built = build_index(kind, decoder, config)  # type: ignore[arg-type]
    in_memory = FaissIndex(built.index, decoder.exact, built.candidates, built.breadth)
    mapped = open_index(index(store, sae, config).artifact)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert f"{sae.uri}/{WEIGHTS_NAME}" in maps
    assert (FAISS_NAME in maps) == (kind == "hnsw")
    for count in (1, 10, 25):
        own, theirs = (each.search(queries(sae, 12), count) for each in (in_memory, mapped))
        np.testing.assert_array_equal(own.feature_QK, theirs.feature_QK)
        np.testing.assert_array_equal(own.cosine_QK, theirs.cosine_QK)


def test_cosines_of_candidates_are_those_of_the_plain_computation(sae: Artifact) -> None:
    exact, number_N = ExactIndex(mapped_decoder(sae)), np.array([5, 0, FEATURES - 1, 5, 77])
    for unit_D in queries(sae, 5):
        expected_N = exact.cosines(unit_D, number_N)
        np.testing.assert_allclose(candidate_cosines(exact, unit_D, number_N), expected_N, atol=1e-6)
    assert candidate_cosines(exact, unit_D, number_N[:0]).shape == (0,)
    with pytest.raises(IndexError):  # and no memory beyond the decoder is read
        candidate_cosines(exact, unit_D, np.array([FEATURES]))


def test_the_same_seed_gives_the_same_bytes_and_what_is_there_is_found(
    own_store: Store, store: Store, sae: Artifact
) -> None:
    for kind in KINDS:
        first = index(store, sae, configured(kind)).artifact
        again = index(own_store, open_artifact(own_store, sae.uri), configured(kind))
        assert again.artifact.digest == first.digest
        assert index(own_store, open_artifact(own_store, sae.uri), configured(kind)).found
    other = index(own_store, open_artifact(own_store, sae.uri), configured("codes"), seed=1)
    assert other.artifact.uri != index(store, sae, configured("codes")).artifact.uri


def test_auto_takes_brute_force_where_the_decoder_is_small_and_codes_where_not(store: Store, sae: Artifact) -> None:
    small, large = (index(store, sae, configured("auto", flat_weights=most)).artifact for most in (10**6, 1000))
    assert (small.manifest.summary["kind"], large.manifest.summary["kind"]) == ("flat", "codes")
    assert (small.manifest.summary["recall_at_10"], small.manifest.summary["bytes"]) == (1.0, 0)
    assert isinstance(open_index(small), ExactIndex)
    assert large.manifest.summary["bytes"] == large.file(FAISS_NAME).stat().st_size


def test_auto_falls_back_to_brute_force_where_recall_is_out_of_reach_and_says_so(store: Store, sae: Artifact) -> None:
    made = index(store, sae, configured("auto", flat_weights=0, bits=1, max_candidates=20)).artifact
    note = str(made.manifest.summary["note"])
    assert note.startswith("codes finds 0.")
    assert note.endswith("0.99 was asked for: flat was made instead")
    assert made.manifest.summary["kind"] == "flat"
    assert made.paths() == [RECORD_NAME, "scales.safetensors"]


def test_a_kind_that_was_asked_for_and_misses_features_is_made_with_a_warning(store: Store, sae: Artifact) -> None:
    summary = index(store, sae, configured("ivfpq", bits=1, max_candidates=20)).artifact.manifest.summary
    assert str(summary["warning"]).endswith("0.99 was asked for: look-ups miss features")
    assert summary["candidates"] == 20
    assert float(summary["recall_at_10"]) < 0.99  # type: ignore[arg-type]


@pytest.mark.proof
def test_an_index_of_a_trained_autoencoder_finds_nearly_all(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = llama_run(tmp_path_factory)
    settings = {"tokens": 20_000, "batch_size": 256, "buffer_rows": 2048, "patience": 0}
    trained = train(run.store, run.activations, TrainConfig(hook=HOOK, sae=TopKConfig(width=2048, k=8), **settings))
    made = index(run.store, trained.artifact, configured("codes", bits=4)).artifact
    assert made.manifest.summary["candidates"] * 4 < 2048  # type: ignore[operator]
    query_QD, exact = queries(trained.artifact), ExactIndex(mapped_decoder(trained.artifact))
    assert share_found(open_index(made).search(query_QD, 10), exact.search(query_QD, 10)) > 0.985


def test_many_threads_get_what_one_gets_and_no_threads_of_others_are_changed(store: Store, sae: Artifact) -> None:
    found, query_QD = open_index(index(store, sae, configured("codes")).artifact), queries(sae, 10)
    before = faiss.omp_get_max_threads()
    alone = [found.search(each[None], 5).feature_QK.tolist() for each in query_QD]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda each: found.search(each[None], 5).feature_QK.tolist(), query_QD)) == alone
    assert found.search(query_QD, 5).feature_QK.tolist() == [row for (row,) in alone]
    assert faiss.omp_get_max_threads() == before
    with one_thread(), ThreadPoolExecutor(1) as pool:
        assert faiss.omp_get_max_threads() == 1
        assert pool.submit(faiss.omp_get_max_threads).result() == before


def test_an_index_refuses_what_brute_force_refuses(store: Store, sae: Artifact) -> None:
    found = open_index(index(store, sae, configured("codes")).artifact)
    for vectors, count, says in (
        (np.ones((1, WIDTH)), 0, "count 0 is out of range"),
        (np.ones((1, WIDTH - 1)), 1, "have shape"),
        (np.full((1, WIDTH), np.nan), 1, "no finite number"),
        (np.zeros((1, WIDTH)), 1, "is zero"),
    ):
        with pytest.raises(InputError, match=says):
            found.search(vectors, count)
    assert found.search(np.ones((1, WIDTH)), 10**9).feature_QK.shape == (1, FEATURES)


@pytest.mark.parametrize("name", [FAISS_NAME, RECORD_NAME, "scales.safetensors"])
def test_damage_is_refused(name: str, own_store: Store, sae: Artifact) -> None:
    made = index(own_store, open_artifact(own_store, sae.uri), configured("codes")).artifact
    path = Path(own_store.url) / made.uri / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match=f"{name} has other content than was published"):
        open_index(made)


def test_an_index_without_its_autoencoder_is_refused(own_store: Store, sae: Artifact) -> None:
    made = index(own_store, open_artifact(own_store, sae.uri), configured("flat")).artifact
    weights = Path(own_store.url) / sae.uri / WEIGHTS_NAME
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="has other content"):
        open_index(made)
    shutil.rmtree(weights.parent)
    with pytest.raises(NotFound):
        open_index(made)
    with pytest.raises(InputError, match="no index of directions"):
        open_index(publish_decoder(own_store, decoder_rows(20, 4)))


def republished(store: Store, made: Artifact, **others: bytes) -> Artifact:
    """The same index with other files, published as whoever may write to the store could."""
    names = {"record": RECORD_NAME, "faiss": FAISS_NAME, "scales": "scales.safetensors"}

    def build(draft: Draft) -> dict[str, str]:
        for part, name in names.items():
            draft.write(name, others.get(part, made.file(name).read_bytes()))
        return {}

    recipe = Recipe(kind="index", config={"hash": hash(tuple(others.items()))}, inputs=made.manifest.inputs)
    return produce(store, recipe, "test", build).artifact


def test_files_that_do_not_fit_their_record_are_refused(own_store: Store, sae: Artifact) -> None:
    own = open_artifact(own_store, sae.uri)
    made, graph = (index(own_store, own, configured(kind)).artifact for kind in ("codes", "hnsw"))
    other = index(own_store, publish_decoder(own_store, decoder_rows(5_000, WIDTH)), configured("codes")).artifact
    record = json.loads(made.file(RECORD_NAME).read_bytes())
    cases: list[tuple[dict[str, bytes], str]] = [
        ({"faiss": b"no index"}, "is no index that can be read"),
        ({"faiss": made.file(FAISS_NAME).read_bytes()[:-5000]}, "is no index that can be read"),
        ({"faiss": graph.file(FAISS_NAME).read_bytes()}, "holds no index of kind codes"),
        ({"faiss": other.file(FAISS_NAME).read_bytes()}, "an index of 5,000 rows of 32, and not of 6,000"),
        ({"record": json.dumps(record | {"kind": "hnsw"}).encode()}, "holds no index of kind hnsw"),
        ({"record": json.dumps(record | {"kind": "auto"}).encode()}, "describes no index: kind"),
        ({"record": json.dumps(record | {"width": 16}).encode()}, "is an index of 6,000 features of 16"),
        ({"scales": other.file("scales.safetensors").read_bytes()}, "holds no finite scales of 6,000 features"),
        ({"scales": b"nothing"}, "is no safetensors file"),
    ]
    for others, says in cases:
        with pytest.raises(DamagedArtifact, match=says):
            open_index(republished(own_store, made, **others))


def test_a_killed_run_ends_with_the_same_bytes(
    own_store: Store, store: Store, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    own = open_artifact(own_store, sae.uri)
    config = configured("codes", queries=60)
    with monkeypatch.context() as patch:
        patch.setattr(index_step, "write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            index(own_store, own, config)
    again = index(own_store, own, config)
    assert not again.found
    assert again.artifact.digest == index(store, sae, config).artifact.digest


def test_rows_of_zeros_are_no_directions(own_store: Store) -> None:
    rows_FD = decoder_rows(3_000, WIDTH)
    rows_FD[::10] = 0
    sae = publish_decoder(own_store, rows_FD)
    made = index(own_store, sae, configured("codes")).artifact
    assert made.manifest.summary["zero_directions"] == 300
    assert float(made.manifest.summary["recall_at_10"]) >= 0.99  # type: ignore[arg-type]
    found = open_index(made).search(queries(sae, 20), 10)
    assert not (found.feature_QK % 10 == 0).any()
    with pytest.raises(InputError, match="there are no directions to search"):
        index(own_store, publish_decoder(own_store, np.zeros((50, 8), dtype=np.float32)), configured("auto"))


def test_an_odd_width_and_an_encoder_of_another_width_are_no_hindrance(own_store: Store) -> None:
    sae = publish_decoder(own_store, decoder_rows(3_000, 33), d_in=16)
    for bits in (1, 2, 4):
        made = index(own_store, sae, configured("codes", bits=bits)).artifact
        assert float(made.manifest.summary["recall_at_10"]) >= 0.99  # type: ignore[arg-type]
        assert "recall_at_10.encoder" not in made.manifest.summary
        query_QD = queries(sae, 20)
        exact = ExactIndex(mapped_decoder(sae)).search(query_QD, 10)
        assert share_found(open_index(made).search(query_QD, 10), exact) > 0.98


@pytest.mark.parametrize("kind", ["codes", "ivfpq"])
def test_too_few_features_for_codes_are_refused(kind: str, own_store: Store) -> None:
    sae = publish_decoder(own_store, decoder_rows(12, 8))
    with pytest.raises(ConfigError, match=f"kind {kind} needs at least 16 features, and there are 12: use flat"):
        index(own_store, sae, configured(kind))
    assert index(own_store, sae, configured("auto")).artifact.manifest.summary["kind"] == "flat"


def test_a_flat_index_needs_no_faiss_and_others_say_what_to_install(
    own_store: Store, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = open_artifact(own_store, sae.uri)
    made = index(own_store, own, configured("codes")).artifact
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert open_index(index(own_store, own, configured("flat")).artifact).num_features == FEATURES
    for call in (lambda: open_index(made), lambda: index(own_store, own, configured("codes", queries=50))):
        with pytest.raises(ConfigError, match="needs faiss: pip install 'mistudio\\[index\\]'"):
            call()


def test_bits_that_are_no_codes_are_refused() -> None:
    with pytest.raises(ConfigError, match="bits 3 is unknown: use 1, 2 or 4"):
        validated(IndexConfig, {"bits": 3})


def test_queries_are_as_far_from_rows_as_they_say(sae: Artifact) -> None:
    made, rows_FD = sample_queries(mapped_decoder(sae), None, 50, 3), mapped_decoder(sae)
    for angle in (20, 45, 70):
        cosine_Q = ExactIndex(rows_FD).search(made[f"row_{angle}"], 1).cosine_QK[:, 0]
        assert cosine_Q.min() > np.cos(np.deg2rad(angle)) - 1e-5
    assert np.allclose(ExactIndex(rows_FD).search(made["row_20"], 1).cosine_QK, np.cos(np.deg2rad(20)), atol=0.02)
    assert all(np.allclose(np.linalg.norm(each, axis=1), 1, atol=1e-5) for each in made.values())
    assert "encoder" not in made


def of_component(sae: Artifact, store: Store) -> Any:
    """A pipeline of the component alone."""

    @dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
    def given(artifact: dsl.Output[dsl.Model], manifest: str) -> None:
        with open(artifact.path, "w") as file:
            file.write(manifest)

    @dsl.pipeline(name="indexing")
    def indexing() -> None:
        made = given(manifest=sae.manifest.to_json().decode())
        component(sae=made.outputs["artifact"], kind="codes", index_settings='{"queries": 50}', store=store.url)

    return indexing


def test_the_command_and_the_component_make_an_index(
    own_store: Store, sae: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    command = ["index", "--sae", sae.uri, "--store", own_store.url, "--kind", "codes", "--queries", "40", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    made = open_artifact(own_store, shown["artifact_uri"], "index")
    assert shown["recall_at_10"] == made.manifest.summary["recall_at_10"]
    run_here(of_component(sae, own_store), {}, tmp_path / "kfp")
    assert steps.run_step("index", sae=sae.uri, store=own_store.url, kind="codes", queries=50).found
    with pytest.raises(MistudioError, match="is of kind mistudio.index/1, but kind sae is needed"):
        steps.run_step("index", sae=made.uri, store=own_store.url)
