"""The find step on a tiny model: its tables against a naive search, its contract with the report, and resuming."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mistudio.activations import ActivationReader
from mistudio.artifacts import Artifact
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import InputError
from mistudio.evaluate import evaluate
from mistudio.find import tables
from mistudio.find.contexts import TopContexts
from mistudio.find.statistics import FeatureStatistics, histogram_edges
from mistudio.find.step import FindConfig, find_features
from mistudio.find.tables import Lens, write_features
from mistudio.report import report
from mistudio.sae import SparseAutoencoder, StandardConfig, TopKConfig, load_autoencoder, new_autoencoder
from mistudio.subject import SubjectConfig, token_strings
from tests.support.tiny import MLP_WIDTH, WIDTH, tiny_llama
from tests.unit.evaluate.tiny_run import CPU, HOOK, TinyRun, publish_sae
from tests.unit.report.fake_run import CONTEXTS_SCHEMA, FEATURES_SCHEMA

CONFIG = FindConfig(contexts=6, context_before=5, context_after=3, lens_tokens=4, chunk_rows=100)
NUM_SILENT = 7
Row = dict[str, Any]


def make_sae(config: TopKConfig | StandardConfig, d_in: int) -> SparseAutoencoder:
    sae = new_autoencoder(config, d_in)
    sae.initialise(torch.zeros(1, d_in), torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_enc[:NUM_SILENT] = -1e4
    return sae


@pytest.fixture(scope="module")
def sae(llama: TinyRun) -> Artifact:
    return publish_sae(llama.store, make_sae(TopKConfig(width=96, k=5), WIDTH), llama.activations)


@pytest.fixture(scope="module")
def features(llama: TinyRun, sae: Artifact) -> Artifact:
    return find_features(llama.store, sae, llama.source, CPU, CONFIG).artifact


def rows_of(features: Artifact, name: str) -> list[Row]:
    rows: list[Row] = pq.read_table(features.file(name)).to_pylist()
    return rows


def encoded(llama: TinyRun, sae: Artifact) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All activations of all features at once, and where each row comes from."""
    reader = ActivationReader(llama.activations, HOOK, "train")
    with torch.no_grad():
        acts_NF = load_autoencoder(sae).encode(reader.acts(0, len(reader)).float())
    return acts_NF.numpy(), reader.meta(0, len(reader))


def test_the_tables_have_the_columns_and_types_that_the_report_reads(features: Artifact) -> None:
    assert pq.read_schema(features.file("features.parquet")).equals(FEATURES_SCHEMA)
    schema = pq.read_schema(features.file("contexts.parquet"))
    for field in CONTEXTS_SCHEMA:
        assert schema.field(field.name).type == field.type, field.name
    assert schema.field("sequence").type == pa.int32()


def test_the_statistics_are_those_of_all_activations_at_once(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    acts_NF, _ = encoded(llama, sae)
    rows = rows_of(features, "features.parquet")
    assert [row["feature"] for row in rows] == list(range(96))
    fires = acts_NF > 0
    assert [row["count"] for row in rows] == fires.sum(axis=0).tolist()
    assert [row["density"] for row in rows] == pytest.approx(fires.mean(axis=0).tolist())
    assert [row["max"] for row in rows] == pytest.approx(acts_NF.max(axis=0).tolist(), rel=1e-5)
    means = acts_NF.sum(axis=0) / np.maximum(fires.sum(axis=0), 1)
    assert [row["mean"] for row in rows] == pytest.approx(means.tolist(), rel=1e-5)
    find = json.loads(features.file("find.json").read_bytes())
    assert all(sum(row["histogram"]) == row["count"] for row in rows)
    assert {len(row["histogram"]) + 1 for row in rows} == {len(find["histogram_edges"])}
    assert find["histogram_edges"] == histogram_edges(0.5)
    assert find["num_tokens"] == len(acts_NF)


def test_the_contexts_are_the_strongest_of_each_document(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    acts_NF, meta = encoded(llama, sae)
    by_feature = defaultdict(list)
    for row in rows_of(features, "contexts.parquet"):
        by_feature[row["feature"]].append(row)
    for feature in range(96):
        best: dict[int, float] = {}
        for document, value in zip(meta["document"].tolist(), acts_NF[:, feature].tolist(), strict=True):
            if value > best.get(document, 0):
                best[document] = value
        expected = sorted(best.items(), key=lambda item: (-item[1], item[0]))[: CONFIG.contexts]
        rows = by_feature[feature]
        assert [row["rank"] for row in rows] == list(range(len(expected)))
        assert [row["value"] for row in rows] == pytest.approx([value for _, value in expected], rel=1e-5)
        assert [row["document"] for row in rows] == [document for document, _ in expected]


def test_each_context_shows_its_own_text_and_activations(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    acts_NF, meta = encoded(llama, sae)
    corpus, tokens = TokenCorpus(llama.corpus), token_strings(llama.subject.tokenizer)
    first_row = {sequence: row for row, sequence in reversed(list(enumerate(meta["sequence"].tolist())))}
    cut_short = with_bos = 0
    for row in rows_of(features, "contexts.parquet"):
        sequence = corpus.sequence("train", row["sequence"])
        peak = row["position"] - sequence.start + 1  # <s> comes first
        start, stop = max(peak - 5, 0), min(peak + 4, len(sequence.token_ids))
        assert row["tokens"] == [tokens[token] for token in sequence.token_ids[start:stop]]
        assert (row["document"], row["task"]) == (sequence.document, sequence.task)
        assert row["peak"] == peak - start
        values = [np.nan, *acts_NF[first_row[row["sequence"]] :][: len(sequence.token_ids) - 1, row["feature"]]]
        np.testing.assert_allclose(row["values"], values[start:stop], rtol=1e-5)
        assert row["values"][row["peak"]] == pytest.approx(row["value"])
        cut_short += len(row["tokens"]) < 9
        with_bos += start == 0
    assert cut_short
    assert with_bos


def test_features_that_never_fire_have_a_row_and_no_contexts(features: Artifact) -> None:
    rows = rows_of(features, "features.parquet")
    silent = {row["feature"] for row in rows if row["count"] == 0}
    assert set(range(NUM_SILENT)) <= silent
    for feature in silent:
        assert rows[feature]["max"] == rows[feature]["mean"] == rows[feature]["density"] == 0
    shown = {row["feature"] for row in rows_of(features, "contexts.parquet")}
    assert shown == set(range(96)) - silent
    assert features.manifest.summary["silent_features"] == len(silent)


def test_an_autoencoder_that_never_fires_gives_empty_tables_of_the_same_columns(
    llama: TinyRun, features: Artifact
) -> None:
    silent = make_sae(TopKConfig(width=64, k=5), WIDTH)
    with torch.no_grad():
        silent.b_enc.fill_(-1e4)
    found = find_features(
        llama.store, publish_sae(llama.store, silent, llama.activations), llama.source, CPU, CONFIG
    ).artifact
    contexts = pq.read_table(found.file("contexts.parquet"))
    assert contexts.num_rows == 0
    assert contexts.schema.equals(pq.read_schema(features.file("contexts.parquet")))
    assert found.manifest.summary["silent_features"] == 64


def test_the_logit_lens_is_the_output_head_applied_to_the_decoder(
    llama: TinyRun, sae: Artifact, features: Artifact
) -> None:
    model, tokens = llama.subject.model, token_strings(llama.subject.tokenizer)
    with torch.no_grad():
        logits_FV = load_autoencoder(sae).W_dec * model.model.norm.weight @ model.lm_head.weight.T
    for row, logits_V in zip(rows_of(features, "features.parquet"), logits_FV, strict=True):
        order = logits_V.argsort(descending=True)
        expected = {"promoted": order[:4], "suppressed": order.flip(0)[:4]}
        for name, ids in expected.items():
            assert row[f"{name}_tokens"] == [tokens[token] for token in ids]
            assert row[f"{name}_logits"] == pytest.approx(logits_V[ids].tolist(), rel=1e-4, abs=1e-6)


def test_features_inside_an_mlp_have_no_logit_lens(llama: TinyRun) -> None:
    inside = publish_sae(
        llama.store, make_sae(StandardConfig(width=64), MLP_WIDTH), llama.activations, hook="mlp_act.1"
    )
    found = find_features(llama.store, inside, llama.source, CPU, CONFIG).artifact
    assert found.manifest.summary["logit_lens"] is False
    for row in rows_of(found, "features.parquet"):
        lens = [row[f"{which}_{what}"] for which in ("promoted", "suppressed") for what in ("tokens", "logits")]
        assert lens == [[], [], [], []]
    assert pq.read_schema(found.file("features.parquet")).equals(FEATURES_SCHEMA)


def test_a_model_without_a_head_has_no_logit_lens(
    llama: TinyRun, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.LlamaForCausalLM.get_output_embeddings", lambda _model: None)
    found = find_features(llama.store, sae, llama.source, CPU, CONFIG, seed=17).artifact
    assert found.manifest.summary["logit_lens"] is False


def test_output_tokens_that_the_tokenizer_does_not_know_are_shown_as_unused(tmp_path: Path) -> None:
    lens = Lens([[0, 3]], [[2.0, 1.0]], [[2, 9]], [[-2.0, -1.0]])
    write_features(tmp_path / "features.parquet", FeatureStatistics(1, 1.0), lens, ["a", "b", "c"])
    (row,) = pq.read_table(tmp_path / "features.parquet").to_pylist()
    assert row["promoted_tokens"] == ["a", "<unused 3>"]
    assert row["suppressed_tokens"] == ["c", "<unused 9>"]


@pytest.mark.parametrize("chunk_rows", [64, 1_000, 100_000])
def test_how_much_is_encoded_at_once_does_not_change_the_tables(
    llama: TinyRun, sae: Artifact, features: Artifact, chunk_rows: int
) -> None:
    config = CONFIG.model_copy(update={"chunk_rows": chunk_rows})
    other = find_features(llama.store, sae, llama.source, CPU, config).artifact
    ours, theirs = rows_of(features, "contexts.parquet"), rows_of(other, "contexts.parquet")
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        exact = ("feature", "rank", "document", "position", "tokens", "peak")
        assert [one[name] for name in exact] == [two[name] for name in exact]
        np.testing.assert_allclose(one["values"], two["values"], rtol=1e-4)


def test_how_many_features_are_written_at_once_does_not_change_the_tables(
    llama: TinyRun, sae: Artifact, features: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_WINDOW_TOKENS_AT_ONCE", 9 * 6 * 5)
    monkeypatch.setattr(tables, "_FEATURES_AT_ONCE", 40)
    other = find_features(llama.store, sae, llama.source, CPU, CONFIG, seed=1).artifact
    for name in ("features.parquet", "contexts.parquet"):
        assert str(rows_of(other, name)) == str(rows_of(features, name))  # as text, where NaN equals NaN


def work_names(run: TinyRun) -> list[str]:
    return [name.rpartition("/")[2] for name in run.store.list("features") if "/work/" in name]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make the search fail at a chunk; returns how many tokens each chunk brought."""
    update = TopContexts.update

    def arm(chunks: int) -> list[int]:
        seen: list[int] = []

        def counting(self: TopContexts, active: Any, rows: Any) -> None:
            if len(seen) == chunks:
                raise KeyboardInterrupt
            seen.append(len(rows.document))
            update(self, active, rows)

        monkeypatch.setattr(TopContexts, "update", counting)
        return seen

    return arm


def test_a_search_cut_between_and_within_shards_ends_with_the_same_files(
    llama: TinyRun, sae: Artifact, features: Artifact, stop_after: Callable[[int], list[int]]
) -> None:
    reader = ActivationReader(llama.activations, HOOK, "train")
    shards = [list(reader.chunks(shard, CONFIG.chunk_rows)) for shard in range(len(reader.shards))]
    ends = np.cumsum([len(chunks) for chunks in shards]).tolist()
    assert len(shards) > 3
    for seed, cut_after in enumerate((1, ends[0] - 1, ends[0], ends[0] + 1, ends[2], ends[-1] - 1), start=100):
        stop_after(cut_after)
        with pytest.raises(KeyboardInterrupt):
            find_features(llama.store, sae, llama.source, CPU, CONFIG, seed)
        done = sum(end < cut_after + 1 for end in ends)  # a shard is kept before the next chunk is looked at
        assert work_names(llama) == ([f"shards-{done:05d}.safetensors"] if done else [])
        seen = stop_after(10**9)
        resumed = find_features(llama.store, sae, llama.source, CPU, CONFIG, seed).artifact
        assert sum(seen) == sum(stop - start for chunks in shards[done:] for start, stop in chunks)
        assert resumed.manifest.files == features.manifest.files, cut_after
        assert resumed.manifest.summary == features.manifest.summary
        assert not work_names(llama)


def test_a_search_that_was_cut_is_not_published(
    llama: TinyRun, sae: Artifact, stop_after: Callable[[int], list[int]]
) -> None:
    def published() -> int:
        return sum(name.endswith("manifest.json") for name in llama.store.list("features"))

    before = published()
    stop_after(8)
    with pytest.raises(KeyboardInterrupt):
        find_features(llama.store, sae, llama.source, CPU, CONFIG, seed=99)
    assert published() == before
    stop_after(10**9)
    find_features(llama.store, sae, llama.source, CPU, CONFIG, seed=99)
    assert published() == before + 1


def test_the_search_is_found_again_unless_something_that_matters_differs(
    llama: TinyRun, sae: Artifact, features: Artifact
) -> None:
    assert find_features(llama.store, sae, llama.source, CPU, CONFIG).found
    half = SubjectConfig(device="cpu", dtype="bfloat16")
    assert not find_features(llama.store, sae, llama.source, half, CONFIG).found


def test_another_model_than_the_captured_one_is_refused(llama: TinyRun, sae: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other content"):
        find_features(llama.store, sae, tiny_llama(tmp_path / "other", seed=5), CPU, CONFIG)


def test_the_report_reads_what_was_found(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    evaluation = evaluate(llama.store, sae, llama.source, CPU).artifact
    page = report(llama.store, features, evaluation).artifact.file("dashboard.html")
    assert page.stat().st_size > 10_000
