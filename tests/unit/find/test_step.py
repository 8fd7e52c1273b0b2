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

from mistudio import steps
from mistudio.activations import ActivationReader
from mistudio.activations.index import index_path, shard_path
from mistudio.artifacts import Artifact
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import ConfigError, InputError
from mistudio.evaluate import cosines, evaluate
from mistudio.features import CONTEXTS, FEATURES, MAP, NEIGHBOURS
from mistudio.find import causal, context_tables, neighbours, silent, tables
from mistudio.find.ablation import Ablation
from mistudio.find.config import FindConfig
from mistudio.find.reading import HookedSubject, Readings
from mistudio.find.search import Search, chunks_of_part
from mistudio.find.statistics import FeatureStatistics, histogram_edges
from mistudio.find.step import find_features, find_part
from mistudio.find.tables import Lens, feature_rows
from mistudio.report import report
from mistudio.sae import NormLimit, SparseAutoencoder, StandardConfig, TopKConfig, load_autoencoder, new_autoencoder
from mistudio.subject import SubjectConfig, token_strings
from tests.support.contexts import read_contexts
from tests.support.indexed import opened_files
from tests.support.tiny import MLP_WIDTH, WIDTH, tiny_llama
from tests.support.tiny_run import CPU, HOOK, TinyRun, publish_sae

CONFIG = FindConfig(
    contexts=6,
    sampled_contexts=6,
    strata=3,
    random_contexts=4,
    hard_negatives=4,
    context_before=5,
    context_after=3,
    lens_tokens=4,
    chunk_rows=100,
    sample_tokens=1024,
    neighbours=5,
    map=False,
    ablation_contexts=1,
    attribution_steps=2,
)
NUM_SILENT = 7
Row = dict[str, Any]


def make_sae(config: TopKConfig | StandardConfig, d_in: int) -> SparseAutoencoder:
    sae = new_autoencoder(config, d_in)
    sae.for_training().initialise(torch.zeros(1, d_in), torch.Generator().manual_seed(0))
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
    rows: list[Row] = table_of(features, name).to_pylist()
    return rows


def table_of(features: Artifact, name: str) -> pa.Table:
    return read_contexts(features) if name == "contexts" else pq.read_table(features.file(name))


def contexts_of(features: Artifact, *kinds: str) -> list[Row]:
    return [row for row in rows_of(features, "contexts") if row["kind"] in kinds]


def encoded(llama: TinyRun, sae: Artifact) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All activations of all features at once, and where each row comes from."""
    reader = ActivationReader(llama.activations, HOOK, "train")
    with torch.no_grad():
        acts_NF = load_autoencoder(sae).encode(reader.acts(0, len(reader)).float())
    return acts_NF.numpy(), reader.meta(0, len(reader))


def test_the_tables_have_the_columns_and_types_that_are_declared(features: Artifact) -> None:
    for table in (FEATURES, CONTEXTS, NEIGHBOURS, MAP):
        for name in features.paths(f"{table.name}/") or [table.name]:
            schema = pq.read_schema(features.file(name))
            assert schema.equals(table.schema), name


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
    for row in contexts_of(features, "top"):
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
    for row in rows_of(features, "contexts"):
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
    shown = {row["feature"] for row in contexts_of(features, "top", "sampled")}
    assert shown == set(range(96)) - silent
    assert features.manifest.summary["silent_features"] == len(silent)


def test_an_autoencoder_that_never_fires_gives_tables_of_the_same_columns(llama: TinyRun, features: Artifact) -> None:
    silent = make_sae(TopKConfig(width=64, k=5), WIDTH)
    with torch.no_grad():
        silent.b_enc.fill_(-1e4)
    found = find_features(
        llama.store, publish_sae(llama.store, silent, llama.activations), llama.source, CPU, CONFIG
    ).artifact
    contexts = read_contexts(found)
    assert set(contexts["kind"].to_pylist()) == {"random"}
    assert contexts.schema.equals(read_contexts(features).schema)
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
            assert row[f"{name}_token_ids"] == ids.tolist()
            assert row[f"{name}_tokens"] == [tokens[token] for token in ids]
            assert row[f"{name}_logits"] == pytest.approx(logits_V[ids].tolist(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("hook", "width"), [("mlp_in.1", WIDTH), ("mlp_act.1", MLP_WIDTH)])
def test_features_inside_an_mlp_have_no_logit_lens(llama: TinyRun, hook: str, width: int) -> None:
    inside = publish_sae(llama.store, make_sae(StandardConfig(width=64), width), llama.activations, hook=hook)
    found = find_features(llama.store, inside, llama.source, CPU, CONFIG).artifact
    assert found.manifest.summary["logit_lens"] is False
    for row in rows_of(found, "features.parquet"):
        lens = [row[f"{which}_{what}"] for which in ("promoted", "suppressed") for what in ("tokens", "logits")]
        assert lens == [[], [], [], []]


def test_a_model_without_a_head_has_no_logit_lens(
    llama: TinyRun, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.LlamaForCausalLM.get_output_embeddings", lambda _model: None)
    found = find_features(llama.store, sae, llama.source, CPU, CONFIG, seed=17).artifact
    assert found.manifest.summary["logit_lens"] is False


def test_output_tokens_that_the_tokenizer_does_not_know_are_shown_as_unused() -> None:
    lens = Lens([[0, 3]], [[2.0, 1.0]], [[2, 9]], [[-2.0, -1.0]])
    (row,) = feature_rows(FeatureStatistics(1, 1.0), lens, ["a", "b", "c"]).to_pylist()
    assert row["promoted_tokens"] == ["a", "<unused 3>"]
    assert row["suppressed_tokens"] == ["c", "<unused 9>"]
    assert (row["promoted_token_ids"], row["suppressed_token_ids"]) == ([0, 3], [2, 9])


@pytest.mark.parametrize("chunk_rows", [64, 1_000, 100_000])
def test_how_much_is_encoded_at_once_does_not_change_the_tables(
    llama: TinyRun, sae: Artifact, features: Artifact, chunk_rows: int
) -> None:
    config = CONFIG.model_copy(update={"chunk_rows": chunk_rows})
    other = find_features(llama.store, sae, llama.source, CPU, config).artifact
    ours, theirs = rows_of(features, "contexts"), rows_of(other, "contexts")
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        exact = ("feature", "rank", "document", "position", "tokens", "peak")
        assert [one[name] for name in exact] == [two[name] for name in exact]
        np.testing.assert_allclose(one["values"], two["values"], rtol=1e-4)


def test_how_many_features_are_written_at_once_does_not_change_the_tables(
    llama: TinyRun, sae: Artifact, features: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_tables, "_ROWS_OF_GROUP", 100)
    monkeypatch.setattr(context_tables, "_GROUPS_OF_FILE", 5)
    monkeypatch.setattr(context_tables, "_WINDOW_TOKENS_AT_ONCE", 9 * 60 * 9)
    monkeypatch.setattr(tables, "_FEATURES_OF_GROUP", 20)
    monkeypatch.setattr(tables, "_NEIGHBOUR_FEATURES_OF_GROUP", 30)
    monkeypatch.setattr(silent, "_FEATURES_AT_ONCE", 50)
    monkeypatch.setattr(neighbours, "_BLOCK_PAIRS", 96 * 10)
    monkeypatch.setattr(cosines, "_BLOCK_COSINES", 96 * 7)
    other = find_features(
        llama.store, sae, llama.source, CPU, CONFIG.model_copy(update={"duplicate_cosine": 0.91})
    ).artifact
    assert other.paths("contexts/") == [f"contexts/{first:07d}.parquet" for first in range(0, 96, 20)]
    for name in ("features.parquet", "contexts", "neighbours.parquet"):
        assert str(rows_of(other, name)) == str(rows_of(features, name)), name  # as text, where NaN equals NaN


def work_names(run: TinyRun) -> list[str]:
    return [name.rpartition("/")[2] for name in run.store.list("features") if "/work/" in name]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Make the search fail at a chunk; returns how many tokens each chunk brought."""
    update = Search.update

    def arm(chunks: int) -> list[int]:
        seen: list[int] = []

        def counting(self: Search, active: Any, meta: Any, *more: Any) -> None:
            if len(seen) == chunks:
                raise KeyboardInterrupt
            seen.append(len(meta["document"]))
            update(self, active, meta, *more)

        monkeypatch.setattr(Search, "update", counting)
        return seen

    return arm


def renamed(number: int) -> FindConfig:
    """Another recipe with the same result: no two directions are so near that the threshold matters."""
    return CONFIG.model_copy(update={"duplicate_cosine": 0.95 + number / 1000})


def test_a_search_cut_between_and_within_shards_ends_with_the_same_files(
    llama: TinyRun, sae: Artifact, features: Artifact, stop_after: Callable[[int], list[int]]
) -> None:
    reader = ActivationReader(llama.activations, HOOK, "train")
    shards = [list(reader.chunks(shard, CONFIG.chunk_rows)) for shard in range(len(reader.shards))]
    ends = np.cumsum([len(chunks) for chunks in shards]).tolist()
    assert len(shards) > 3
    for number, cut_after in enumerate((1, ends[0], ends[2], ends[-1] - 1)):
        stop_after(cut_after)
        with pytest.raises(KeyboardInterrupt):
            find_features(llama.store, sae, llama.source, CPU, renamed(number))
        done = sum(end < cut_after + 1 for end in ends)  # a shard is kept before the next chunk is looked at
        assert work_names(llama) == ([f"shards-{done:05d}.safetensors"] if done else [])
        seen = stop_after(10**9)
        resumed = find_features(llama.store, sae, llama.source, CPU, renamed(number)).artifact
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
        find_features(llama.store, sae, llama.source, CPU, renamed(40))
    assert published() == before
    stop_after(10**9)
    find_features(llama.store, sae, llama.source, CPU, renamed(40))
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


def test_a_search_cut_while_features_are_tried_goes_on_behind_the_last_block(
    llama: TinyRun, sae: Artifact, features: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "_CONTEXTS_AT_ONCE", 40)
    done: list[int] = []
    ablate = causal.ablate

    def counting(hooked: HookedSubject, read: Readings, seed: int) -> Ablation:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(read.feature))
        return ablate(hooked, read, seed)

    monkeypatch.setattr(causal, "ablate", counting)
    with pytest.raises(KeyboardInterrupt):
        find_features(llama.store, sae, llama.source, CPU, renamed(41))
    assert done == [40, 40]
    done.clear()
    monkeypatch.setattr(Search, "update", None)  # the pass is over
    resumed = find_features(llama.store, sae, llama.source, CPU, renamed(41)).artifact
    assert len(done) == 1  # of about 90 contexts
    for name in ("features.parquet", "contexts"):
        one, other = (table_of(found, name).drop_columns(CAUSAL[name]).to_pylist() for found in (resumed, features))
        assert str(one) == str(other)
    for name, columns in CAUSAL.items():
        for column in columns:  # other contexts share the forward passes
            one, other = (flat(table_of(found, name)[column]) for found in (resumed, features))
            np.testing.assert_allclose(one, other, atol=1e-4)


CAUSAL = {
    "features.parquet": ["ablation", "ablation_elsewhere", "ablation_control"],
    "contexts": ["gradient", "integrated"],
}


def flat(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks()
    if pa.types.is_list(values.type):
        values = values.flatten()
    return values.drop_null().to_numpy(zero_copy_only=False)


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_a_search_in_parts_publishes_the_same_bytes(
    llama: TinyRun, sae: Artifact, features: Artifact, num_parts: int
) -> None:
    parts = [
        find_part(llama.store, sae, llama.source, CPU, CONFIG, part=part, num_parts=num_parts).artifact
        for part in range(num_parts)
    ]
    tokens = [int(part.manifest.summary["tokens"]) for part in parts]
    assert sum(tokens) == features.manifest.summary["tokens"]
    merged = find_features(llama.store, sae, llama.source, CPU, renamed(42 + num_parts), parts=parts[::-1])
    assert not merged.found
    assert merged.artifact.manifest.files == features.manifest.files
    assert merged.artifact.manifest.summary == features.manifest.summary


def test_tokens_beyond_the_norm_limit_are_counted_apart_in_one_pass_as_in_parts(llama: TinyRun) -> None:
    limited = make_sae(TopKConfig(width=96, k=5), WIDTH)
    reader = ActivationReader(llama.activations, HOOK, "train")
    rows_ND = reader.acts(0, len(reader)).float()
    limited.norm_limit = NormLimit(torch.zeros(WIDTH), float(rows_ND.norm(dim=1).quantile(0.7)))
    sae, kept_N = publish_sae(llama.store, limited, llama.activations), limited.keeps(rows_ND).numpy()
    whole = find_features(llama.store, sae, llama.source, CPU, CONFIG).artifact
    parts = [
        find_part(llama.store, sae, llama.source, CPU, CONFIG, part=part, num_parts=2).artifact for part in range(2)
    ]
    merged = find_features(llama.store, sae, llama.source, CPU, renamed(41), parts=parts[::-1]).artifact
    assert merged.manifest.files == whole.manifest.files
    for artifacts in ([whole], [merged], parts):
        for name, count in (("tokens", kept_N.sum()), ("filtered_tokens", (~kept_N).sum())):
            assert sum(int(each.manifest.summary[name]) for each in artifacts) == count
    acts_NF, meta = encoded(llama, sae)
    assert not acts_NF[~kept_N].any()
    rows = rows_of(whole, "features.parquet")
    fires_NF = acts_NF[kept_N] > 0
    assert [row["count"] for row in rows] == fires_NF.sum(axis=0).tolist()
    assert [row["density"] for row in rows] == pytest.approx(fires_NF.mean(axis=0).tolist())
    shown = {(row["sequence"], row["position"]) for row in contexts_of(whole, "top", "sampled")}
    assert shown
    assert not shown & set(zip(meta["sequence"][~kept_N].tolist(), meta["position"][~kept_N].tolist(), strict=True))


def test_a_part_opens_its_own_shards_and_no_other(
    llama: TinyRun, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = opened_files(monkeypatch)
    reader = ActivationReader(llama.activations, HOOK, "train")
    num_parts, shards = 3, []
    for part in range(num_parts):
        opened.clear()
        find_part(llama.store, sae, llama.source, CPU, CONFIG, seed=17, part=part, num_parts=num_parts)
        there = {path.removeprefix(f"{llama.activations.uri}/") for path in opened if "activations/" in path}
        assert index_path(HOOK, "train") in there
        rows = [(chunk.start, chunk.stop) for chunk in chunks_of_part(reader, CONFIG.chunk_rows, part, num_parts)]
        shards.append(reader.shards_of(rows))
        assert there == {index_path(HOOK, "train"), *(shard_path(HOOK, "train", shard) for shard in shards[-1])}
    assert all(len(own) < len(reader.shards) for own in shards)
    assert set.union(*shards) == set(range(len(reader.shards)))


def test_parts_that_are_not_all_of_the_search_are_refused(llama: TinyRun, sae: Artifact) -> None:
    first, second = (
        find_part(llama.store, sae, llama.source, CPU, CONFIG, part=part, num_parts=2).artifact for part in range(2)
    )
    for parts, config in (([first], CONFIG), ([first, first], CONFIG), ([first, second], FindConfig(contexts=7))):
        with pytest.raises(InputError, match="is missing"):
            find_features(llama.store, sae, llama.source, CPU, config, parts=parts)
    with pytest.raises(ConfigError, match="count from 0"):
        find_part(llama.store, sae, llama.source, CPU, CONFIG, part=2, num_parts=2)


def test_sampled_contexts_come_from_all_quantiles_in_turns(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    acts_NF, meta = encoded(llama, sae)
    row_of = {place: row for row, place in enumerate(zip(meta["sequence"], meta["position"], strict=True))}
    by_feature = defaultdict(list)
    for row in contexts_of(features, "sampled"):
        at = row_of[row["sequence"], row["position"]]
        assert acts_NF[at, row["feature"]] == pytest.approx(row["value"], rel=1e-5)
        by_feature[row["feature"]].append(row)
    firm = 0
    for feature, rows in by_feature.items():
        assert [row["rank"] for row in rows] == list(range(len(rows)))
        assert len({row["document"] for row in rows}) == len(rows) <= CONFIG.sampled_contexts
        values = acts_NF[acts_NF[:, feature] > 0, feature]
        for row in rows:
            share = (values < row["value"]).mean()
            assert abs(share - (row["stratum"] + 0.5) / 3) < 0.5  # bins are wide for a handful of values
        firm += len(rows) == 6 and [row["stratum"] for row in rows[:3]] == [2, 1, 0]
    assert firm > 40


def test_contexts_without_the_feature_are_silent_throughout(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    acts_NF, meta = encoded(llama, sae)
    row_of = {place: row for row, place in enumerate(zip(meta["sequence"], meta["position"], strict=True))}
    neighbours_of = defaultdict(set)
    for row in rows_of(features, "neighbours.parquet"):
        neighbours_of[row["feature"]].add(row["other"])
    rows = contexts_of(features, "random", "hard_negative")
    documents = defaultdict(list)
    for row in rows:
        at = row_of[row["sequence"], row["position"]]
        around = range(max(at - 5, 0), min(at + 4, len(acts_NF)))
        around = [near for near in around if meta["sequence"][near] == row["sequence"]]
        assert not acts_NF[around, row["feature"]].any()
        assert row["value"] == 0
        assert np.isnan(row["values"]).sum() == len(row["values"]) - len(around)  # <s> was not captured
        assert np.nansum(row["values"]) == 0
        documents[row["feature"], row["kind"]].append(row["document"])
        if row["kind"] == "hard_negative":
            assert row["neighbour"] in neighbours_of[row["feature"]]
            assert acts_NF[at, row["neighbour"]] > 0
        else:
            assert row["neighbour"] is None
    assert all(len(set(each)) == len(each) <= 4 for each in documents.values())
    assert len({row["feature"] for row in rows if row["kind"] == "hard_negative"}) > 60


def test_statistics_are_left_out_when_they_are_not_wanted(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    config = CONFIG.model_copy(update={"include_statistics": False, "ablation_contexts": 0, "attribution_contexts": 0})
    found = find_features(llama.store, sae, llama.source, CPU, config).artifact
    with_all, table = (table_of(each, "features.parquet") for each in (features, found))
    left_out = {name for name in table.column_names if table[name].null_count == len(table)}
    assert left_out - {name for name in with_all.column_names if with_all[name].null_count == len(table)} == {
        "task_density", "position_density", "lift_token_ids", "lift_tokens", "lift_values",
        "mean_token_ids", "mean_tokens", "mean_values", "ablation", "ablation_elsewhere", "ablation_control",
    }  # fmt: skip
    assert table["ablation"].null_count == len(table)
    contexts = read_contexts(found)
    assert contexts["gradient"].null_count == len(contexts)
    assert found.manifest.summary["ablation"] is None


def test_densities_by_task_and_position_are_those_of_the_tokens(
    llama: TinyRun, sae: Artifact, features: Artifact
) -> None:
    acts_NF, meta = encoded(llama, sae)
    find = json.loads(features.file("find.json").read_bytes())
    corpus = TokenCorpus(llama.corpus)
    tasks = np.array([corpus.sequence("train", sequence).task for sequence in meta["sequence"].tolist()])
    starts = np.flatnonzero(np.diff(meta["sequence"], prepend=-1))
    place = np.arange(len(tasks)) - np.repeat(starts, np.diff(starts, append=len(tasks)))
    rows = rows_of(features, "features.parquet")
    by_task = np.stack([(acts_NF[tasks == task] > 0).mean(axis=0) for task in find["tasks"]], axis=1)
    np.testing.assert_allclose([row["task_density"] for row in rows], by_task, rtol=1e-5)
    for number, first in enumerate(find["position_edges"][:4]):
        chosen = (place >= first) & (place < find["position_edges"][number + 1])
        expected = (acts_NF[chosen] > 0).mean(axis=0)
        np.testing.assert_allclose([row["position_density"][number] for row in rows], expected, rtol=1e-5)


def test_the_steps_find_in_parts_what_they_find_at_once(
    llama: TinyRun, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    given = {"sae": sae.uri, "model": str(llama.source.path), "device": "cpu", "contexts": 3}
    store = str(Path(str(llama.store.url).removeprefix("file:")))
    parts = [
        steps.run_step("find_part", **given, part=part, num_parts=2, store=store).artifact.uri for part in range(2)
    ]
    both = {"ablation_contexts": 0, "attribution_contexts": 0, "random_contexts": 2, "store": store}
    merged = steps.run_step("find", **given, **both, parts=", ".join(parts))
    assert not merged.found
    assert steps.run_step("find", **given, **both).artifact.digest == merged.artifact.digest
    with pytest.raises(InputError, match=r"features-part/\w+ is missing"):
        steps.run_step("find", **{**given, "contexts": 4}, **both, parts=parts[0])


def test_only_what_is_asked_for_is_searched(llama: TinyRun, sae: Artifact, features: Artifact) -> None:
    nothing = dict.fromkeys(("sampled_contexts", "random_contexts", "hard_negatives", "ablation_contexts"), 0)
    config = CONFIG.model_copy(update={**nothing, "attribution_contexts": 0, "context_before": 0, "context_after": 0})
    found = find_features(llama.store, sae, llama.source, CPU, config).artifact
    rows = rows_of(found, "contexts")
    top = contexts_of(features, "top")
    assert {row["kind"] for row in rows} == {"top"}
    assert [row["values"] for row in rows] == [[row["value"]] for row in top]
