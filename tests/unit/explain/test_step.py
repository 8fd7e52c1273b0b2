"""The explain step on a tiny model: what it publishes, who wins, what it refuses, and resuming."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, open_input
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import ConfigError, CorpusError, InputError
from mistudio.explain import ExplainConfig, explain, read_explanations
from mistudio.explain import registry as registry_module
from mistudio.explain.evidence import read_evidence
from mistudio.explain.labels import choose_labels, read_labels
from mistudio.explain.material import open_material
from mistudio.explain.program import ProgramExplainer
from mistudio.explain.programs import Context, Program
from mistudio.explain.records import Evidence, Explanation
from mistudio.explain.tokens import draw_sequences
from mistudio.features import FIRING_KINDS, FeatureSet
from mistudio.find import FindConfig, find_features
from mistudio.sae import hook_of, load_autoencoder
from tests.support.contexts import read_contexts
from tests.support.found import NUM_FEATURES, NUM_SILENT
from tests.support.tiny import tiny_bert
from tests.support.tiny_run import CPU, HOOK, TinyRun, publish_sae

CONFIG = ExplainConfig(block_features=16, max_tokens=100_000)


@pytest.fixture(scope="module")
def explanations(llama: TinyRun, features: Artifact) -> Artifact:
    return explain(llama.store, features, llama.source, CPU, CONFIG).artifact


@pytest.fixture(scope="module")
def silent(features: Artifact) -> list[int]:
    counts = pq.read_table(features.file("features.parquet"))["count"].to_pylist()
    return [feature for feature, count in enumerate(counts) if count == 0]


class Echo:
    """An explainer of another package, which needs no language model and says nothing of feature 5."""

    name = "echo"
    needs_judge = False

    def __init__(self, judge: object, seed: int) -> None:
        self.seed = seed

    def explain(self, features: Iterable[Evidence]) -> Iterator[Explanation]:
        for evidence in features:
            if evidence.feature != 5:
                text = " ".join(example.tokens[example.peak] for example in evidence.examples)
                yield Explanation(
                    feature=evidence.feature,
                    explainer=self.name,
                    text=text,
                    label="same",
                    seed=self.seed,
                    documents=evidence.documents,
                )


class EchoEntry:
    """Its entry point."""

    name, value = "echo", "somewhere:Echo"

    def load(self) -> type[Echo]:
        return Echo


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [EchoEntry()])


def test_every_feature_is_explained_and_those_that_never_fire_are_dead(
    explanations: Artifact, silent: list[int]
) -> None:
    rows = list(read_explanations(explanations))
    assert [row.feature for row in rows] == list(range(64))
    assert silent[:NUM_SILENT] == list(range(NUM_SILENT))
    assert [row.feature for row in rows if row.status == "dead"] == silent
    for row in (row for row in rows if row.feature not in silent):
        assert row.text
        assert row.label
        assert row.confidence is not None
        assert Program.from_json(row.program or "").branches
    summary = explanations.manifest.summary
    assert (summary["features"], summary["dead"], summary["explained"]) == (64, len(silent), 64 - len(silent))


def test_the_token_sets_are_published_beside_the_programs(explanations: Artifact, silent: list[int]) -> None:
    rows = list(read_explanations(explanations, "token_sets.parquet"))
    assert [row.feature for row in rows] == list(range(64))
    for row in (row for row in rows if row.feature not in silent):
        (branch,) = Program.from_json(row.program or "").branches
        assert [condition.kind for condition in branch.conditions] == ["member"]


def test_labels_are_short_and_no_two_are_alike(explanations: Artifact, silent: list[int]) -> None:
    labels = pq.read_table(explanations.file("labels.parquet")).to_pylist()
    assert [row["feature"] for row in labels] == [feature for feature in range(64) if feature not in silent]
    names = [row["label"] for row in labels]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 72


def test_only_training_documents_are_read(llama: TinyRun, explanations: Artifact) -> None:
    searched = json.loads(explanations.file("explanations.json").read_bytes())["searched"]
    corpus = TokenCorpus(llama.corpus)
    assert searched["documents"]
    assert set(searched["documents"]) <= set(corpus.documents("train").tolist())
    assert not set(searched["documents"]) & set(corpus.documents("heldout").tolist())


def test_firings_are_those_of_all_activations_at_once(llama: TinyRun, features: Artifact) -> None:
    material = open_material(llama.store, features, llama.source, CPU)
    tokens, firings = material.read("train", 10**9, 0, material.strings())
    reader = ActivationReader(llama.activations, HOOK, "train")
    meta = reader.meta(0, len(reader))
    order = np.lexsort((meta["position"], meta["sequence"]))
    acts_NF = load_autoencoder(material.sae).encode(reader.acts(0, len(reader)).float()).numpy()[order]
    np.testing.assert_array_equal(tokens.id_N, meta["token_id"][order])
    np.testing.assert_array_equal(tokens.position_N, meta["position"][order])
    np.testing.assert_array_equal(tokens.document_N, meta["document"][order])
    for feature in range(64):
        np.testing.assert_allclose(firings.dense(feature), acts_NF[:, feature], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(firings.max_F(), acts_NF.max(axis=0), rtol=1e-4)
    np.testing.assert_allclose(material.maxima(), acts_NF.max(axis=0), rtol=1e-4)


def test_some_documents_have_the_firings_that_they_have_among_all(llama: TinyRun, features: Artifact) -> None:
    material = open_material(llama.store, features, llama.source, CPU)
    strings = material.strings()
    tokens, firings = material.read("train", 10**9, 0, strings)
    some, fewer = material.read("train", 300, 3, strings)
    rows = np.flatnonzero(np.isin(tokens.document_N, some.document_N))
    assert 300 <= len(some) < len(tokens)
    np.testing.assert_array_equal(some.id_N, tokens.id_N[rows])
    for feature in range(64):
        np.testing.assert_allclose(fewer.dense(feature), firings.dense(feature)[rows], rtol=1e-4, atol=1e-6)


def test_documents_are_drawn_by_seed_and_whole(llama: TinyRun) -> None:
    corpus = TokenCorpus(llama.corpus)
    num = corpus.num_sequences("train")
    one, again, other = (draw_sequences(corpus, "train", num, 400, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert one.tolist() != other.tolist()
    documents = corpus.documents("train")
    assert set(one.tolist()) == set(np.flatnonzero(np.isin(documents, documents[one])).tolist())
    with_two = int(np.flatnonzero(np.diff(documents) == 0)[-1])
    cut = draw_sequences(corpus, "train", with_two + 1, 10**9, 0)
    assert documents[with_two] not in documents[cut]
    with pytest.raises(CorpusError, match="no whole document"):
        draw_sequences(corpus, "train", 0, 400, 0)


def test_activations_that_come_live_give_the_same_explanations(
    llama: TinyRun, features: Artifact, explanations: Artifact
) -> None:
    settings = CaptureConfig(hooks=(HOOK,), stored="heldout")
    live = capture(llama.store, llama.corpus, llama.source, CPU, settings).artifact
    sae = load_autoencoder(open_input(llama.store, features.manifest.inputs["sae"], "sae"))
    published = publish_sae(llama.store, sae, live)
    config = FindConfig(map=False, contexts=6, context_before=5, context_after=3, lens_tokens=4)
    found = find_features(llama.store, published, llama.source, CPU, config).artifact
    made = explain(llama.store, found, llama.source, CPU, CONFIG).artifact
    texts = [row.text for row in read_explanations(explanations)]
    same = sum(text == row.text for text, row in zip(texts, read_explanations(made), strict=True))
    assert same >= 62  # activations agree up to rounding, so hardly a choice falls otherwise


def test_the_same_explanations_are_found_again_and_made_again_byte_for_byte(
    llama: TinyRun, features: Artifact, explanations: Artifact
) -> None:
    assert explain(llama.store, features, llama.source, CPU, CONFIG).found
    names = ("explanations.parquet", "token_sets.parquet", "labels.parquet")
    settings = CONFIG.model_copy(update={"max_tokens": 100_001})  # another artifact, and nothing else for programs
    again = explain(llama.store, features, llama.source, CPU, settings).artifact
    assert [again.file(name).read_bytes() for name in names] == [explanations.file(name).read_bytes() for name in names]
    other_blocks = CONFIG.model_copy(update={"block_features": 50})
    again = explain(llama.store, features, llama.source, CPU, other_blocks).artifact
    for name in names:
        assert pq.read_table(again.file(name)).equals(pq.read_table(explanations.file(name)))


def test_a_run_that_was_cut_goes_on_at_the_next_block(
    llama: TinyRun, features: Artifact, explanations: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, seen, allowed = ProgramExplainer.explain_both, [], 40

    def counting(self: ProgramExplainer, evidence: Iterable[Evidence]) -> Iterator[tuple[Explanation, Explanation]]:
        for each in both(self, evidence):
            if len(seen) == allowed:
                raise KeyboardInterrupt
            seen.append(each[0].feature)
            yield each

    monkeypatch.setattr(ProgramExplainer, "explain_both", counting)
    config = CONFIG.model_copy(update={"max_tokens": 100_002})
    with pytest.raises(KeyboardInterrupt):
        explain(llama.store, features, llama.source, CPU, config)
    seen.clear()
    allowed = 1000
    resumed = explain(llama.store, features, llama.source, CPU, config).artifact
    assert seen == list(range(32, 64))
    for name in ("explanations.parquet", "token_sets.parquet", "labels.parquet"):
        assert resumed.file(name).read_bytes() == explanations.file(name).read_bytes()


@pytest.mark.usefixtures("echo")
def test_an_explainer_of_another_package_is_used_and_what_it_leaves_out_has_failed(
    llama: TinyRun, features: Artifact
) -> None:
    config = CONFIG.model_copy(update={"explainers": ("echo", "program")})
    made = explain(llama.store, features, llama.source, CPU, config, seed=4).artifact
    rows = [row for row in read_explanations(made) if row.explainer == "echo"]
    assert [row.feature for row in rows] == list(range(64))
    assert [row.feature for row in rows if row.status == "failed"] == [5]
    assert rows[10].documents
    labels = {row["feature"]: row for row in pq.read_table(made.file("labels.parquet")).to_pylist()}
    assert labels[0]["label"] == "same"
    assert labels[1]["label"] == "same (2)"
    assert labels[5]["explainer"] == "program"


def test_peoples_labels_win(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("feature,label\n7,greetings\n9,numbers\n", encoding="utf-8")
    made = explain(llama.store, features, llama.source, CPU, CONFIG, labels=path).artifact
    labels = {row["feature"]: row for row in pq.read_table(made.file("labels.parquet")).to_pylist()}
    assert (labels[7]["label"], labels[7]["explainer"]) == ("greetings", "person")
    assert labels[8]["explainer"] == "program"
    path.write_text("feature,label\n7,farewells\n", encoding="utf-8")
    assert not explain(llama.store, features, llama.source, CPU, CONFIG, labels=path).found


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "feature,name\n1,x\n", "needs a feature"),
        ("a.jsonl", '{"feature": 99, "label": "x"}', "0 to 63"),
        ("a.jsonl", '{"feature": 1, "label": " "}', "empty label"),
        ("a.jsonl", "not json", "cannot be read"),
        ("a.jsonl", "[1]", "needs a feature"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_labels(tmp_path / name, 64)


def test_a_file_of_labels_that_is_not_there_is_named(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file of labels at .*absent\.csv"):
        explain(llama.store, features, llama.source, CPU, CONFIG, labels=tmp_path / "absent.csv")


def test_labels_never_repeat_even_where_a_number_is_taken() -> None:
    names = ["x", "x (2)", "x", "x", "y"]
    rows = choose_labels(
        Explanation(feature=number, explainer="program", label=name) for number, name in enumerate(names)
    )
    assert [row["label"] for row in rows] == ["x", "x (2)", "x (3)", "x (4)", "y"]


def test_another_tokenizer_is_refused(llama: TinyRun, features: Artifact, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer .* is not that of folder:other"):
        explain(llama.store, features, tiny_bert(tmp_path / "other"), CPU, CONFIG)


def test_an_explainer_without_its_language_model_says_what_to_do(llama: TinyRun, features: Artifact) -> None:
    config = CONFIG.model_copy(update={"explainers": ("contrastive",)})
    with pytest.raises(ConfigError, match=r"contrastive needs a language model.*program score need none"):
        explain(llama.store, features, llama.source, CPU, config)
    with pytest.raises(ConfigError, match=r"no explainer 'guess': use program, max-activating"):
        explain(llama.store, features, llama.source, CPU, CONFIG.model_copy(update={"explainers": ("guess",)}))


def test_evidence_is_what_was_found(features: Artifact) -> None:
    found = FeatureSet(features)
    everything = list(read_evidence(found))
    assert [each.feature for each in everything] == list(range(64))
    assert not any(each.examples for each in everything[:NUM_SILENT] if each.density > 0)
    rows = read_contexts(features).to_pylist()
    for each in everything:
        own = [row for row in rows if row["feature"] == each.feature]
        assert [list(example.tokens) for example in each.examples] == [row["tokens"] for row in own]
        assert [example.kind for example in each.examples] == [row["kind"] for row in own]
        assert not any(np.isnan(example.values).any() for example in each.examples)
        assert found.count_contexts(FIRING_KINDS)[each.feature] == sum(example.is_active for example in each.examples)
    bare = list(read_evidence(found, examples=False))
    assert bare == [each._replace(examples=()) for each in everything]
    some = list(read_evidence(found, 20, 30))
    assert str(some) == str(everything[20:30])  # as text, where NaN equals NaN
    assert {hook_of(open_input(features.store, features.manifest.inputs["sae"], "sae"))} == {HOOK}


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("block_features", [32, 8, 4])
def test_smaller_blocks_read_no_more_of_the_contexts(
    llama: TinyRun, features: Artifact, monkeypatch: pytest.MonkeyPatch, block_features: int
) -> None:
    rows_read: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, group: int, *arguments: object, **options: object) -> object:
        rows_read.append(self.metadata.row_group(group).num_rows)
        return read(self, group, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    config = CONFIG.model_copy(update={"explainers": ("echo",), "block_features": block_features})
    explain(llama.store, features, llama.source, CPU, config)
    num_blocks, num_contexts = NUM_FEATURES // block_features, len(read_contexts(features))
    # All features are in one row group, of which each block reads a few columns; 16 features share one of contexts.
    assert sum(rows_read) <= num_blocks * NUM_FEATURES + num_contexts * max(16 // block_features, 1)


def test_evidence_of_a_block_comes_from_its_row_groups_alone(
    features: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    read = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, group: int, *arguments: object, **options: object) -> object:
        groups.append(group)
        return read(self, group, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    assert [each.feature for each in read_evidence(FeatureSet(features), 32, 48)] == list(range(32, 48))
    assert sorted(groups) == [0, 2]  # that of the features, and the third of the contexts, of 16 features each


def test_programs_run_on_any_tokens(llama: TinyRun, features: Artifact, explanations: Artifact) -> None:
    material = open_material(llama.store, features, llama.source, CPU)
    tokens, _ = material.read("heldout", 10**9, 0, material.strings())
    context = Context(tokens)
    for row in (row for row in read_explanations(explanations) if row.program is not None):
        predicted = Program.from_json(row.program).predict(context)
        assert predicted.shape == (len(tokens),)
        assert np.isfinite(predicted).all()
        assert (predicted >= 0).all()
