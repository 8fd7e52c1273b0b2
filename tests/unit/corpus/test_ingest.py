import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mistudio.artifacts import InputRef, Produced, Recipe, Store, open_store
from mistudio.corpus import ingest as ingest_module
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.documents import Document
from mistudio.corpus.ingest import ingest, is_held_out
from mistudio.corpus.reader import SPLITS, Sequence, Split, TokenCorpus
from mistudio.corpus.sources import open_source
from mistudio.errors import ConfigError, CorpusError, StorageFull


@dataclass(frozen=True)
class ListSource:
    """Documents from memory; stops with an error before document ``fail_at``."""

    texts: tuple[str, ...]
    fail_at: int | None = None
    error: type[Exception] = RuntimeError
    uri: str = "test:list"

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def documents(self, dropped: Counter[str] | None = None) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            if number == self.fail_at:
                raise self.error(f"killed before document {number}")
            if text:
                yield Document(text, "even" if number % 2 == 0 else "odd", f"label {number}" if number % 3 else None)
            elif dropped is not None:
                dropped["empty text"] += 1


def some_texts(count: int, empty_every: int = 7) -> tuple[str, ...]:
    return tuple("" if n % empty_every == 3 else f"Document {n}: " + "word " * (n % 40) for n in range(count))


def run(store: Store, source: object, tokenizer: PreTrainedTokenizerBase, **config: object) -> Produced:
    ref = InputRef(uri="test:tokenizer", digest="0" * 64)
    return ingest(store, source, tokenizer, ref, IngestConfig(**{"context_length": 16, **config}))  # type: ignore[arg-type]


def rows(corpus: TokenCorpus) -> list[tuple[Split, Sequence]]:
    return [(split, corpus.sequence(split, i)) for split in SPLITS for i in range(corpus.num_sequences(split))]


def documents_of(corpus: TokenCorpus) -> dict[int, list[int]]:
    """Document -> its tokens without specials, put together from its sequences."""
    tokens: dict[int, list[int]] = {}
    for _, row in sorted(rows(corpus), key=lambda pair: (pair[1].document, pair[1].start)):
        text_tokens = row.token_ids[corpus.num_prefix : len(row.token_ids) - corpus.num_suffix].tolist()
        assert len(tokens.setdefault(row.document, [])) == row.start
        tokens[row.document] += text_tokens
    return tokens


@pytest.mark.parametrize("name", ["causal_tokenizer", "plain_tokenizer", "bare_tokenizer", "bert_tokenizer"])
def test_sequences_of_a_document_hold_all_its_tokens_between_specials(
    store: Store, name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    texts = some_texts(60)
    corpus = TokenCorpus(run(store, ListSource(texts), tokenizer, held_out_fraction=0.3).artifact)
    expected = [tokenizer(text, add_special_tokens=False).input_ids for text in texts if text]
    assert documents_of(corpus) == dict(enumerate(expected))
    prefix, suffix = corpus.statistics.prefix_ids, corpus.statistics.suffix_ids
    for _, row in rows(corpus):
        ids = row.token_ids.tolist()
        assert ids[: len(prefix)] == prefix
        assert ids[len(ids) - len(suffix) :] == suffix
        assert len(prefix) + len(suffix) < len(ids) <= 16


def test_rows_keep_task_and_label_of_their_document(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    source = ListSource(some_texts(60))
    documents = list(source.documents())
    corpus = TokenCorpus(run(store, source, causal_tokenizer, held_out_fraction=0.3).artifact)
    for _, row in rows(corpus):
        document = documents[row.document]
        assert (row.task, row.label) == (document.task, document.label)


def test_without_special_tokens_there_are_none(store: Store, bert_tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = TokenCorpus(run(store, ListSource(some_texts(40)), bert_tokenizer, add_special_tokens=False).artifact)
    assert (corpus.num_prefix, corpus.num_suffix) == (0, 0)
    assert not any({2, 3} & set(row.token_ids.tolist()) for _, row in rows(corpus))


texts_strategy = st.lists(st.text(min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(texts=texts_strategy, repeats=st.integers(1, 3), split_seed=st.integers(0, 5))
def test_the_split_is_disjoint_and_exhaustive_and_keeps_equal_texts_together(
    causal_tokenizer: PreTrainedTokenizerBase, texts: list[str], repeats: int, split_seed: int
) -> None:
    base = [f"filler {n}" for n in range(40)]  # so that neither split is empty
    source = ListSource(tuple("".join(list(text)) for text in (texts + base) * repeats))  # equal, not identical
    with tempfile.TemporaryDirectory() as folder:
        config = {"held_out_fraction": 0.5, "split_seed": split_seed}
        corpus = TokenCorpus(run(open_store(folder), source, causal_tokenizer, **config).artifact)
        numbers = {split: set(corpus.documents(split).tolist()) for split in SPLITS}
        assert numbers["train"] | numbers["heldout"] == set(range(len(source.texts)))
        assert not numbers["train"] & numbers["heldout"]
        on_side = {split: {source.texts[number] for number in numbers[split]} for split in SPLITS}
        assert not on_side["train"] & on_side["heldout"]
        assert documents_of(corpus) == {
            number: causal_tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
            for number, text in enumerate(source.texts)
        }


def test_the_held_out_fraction_is_met_and_follows_the_seed() -> None:
    texts = [f"text {number}" for number in range(5000)]
    held = [is_held_out(text, 0.1, 0) for text in texts]
    assert 430 <= sum(held) <= 570
    assert held != [is_held_out(text, 0.1, 1) for text in texts]
    assert all(is_held_out(text, 0.2, 0) for text, was_held in zip(texts, held, strict=True) if was_held)


def test_statistics_are_those_of_the_rows(store: Store, bert_tokenizer: PreTrainedTokenizerBase) -> None:
    texts = some_texts(100)
    corpus = TokenCorpus(run(store, ListSource(texts), bert_tokenizer, held_out_fraction=0.3).artifact)
    statistics = corpus.statistics
    kept = [text for text in texts if text]
    assert statistics.documents == len(kept)
    assert statistics.text_bytes == sum(len(text.encode()) for text in kept)
    assert statistics.dropped == {"empty text": len(texts) - len(kept)}
    assert statistics.special_ids == [0, 1, 2, 3]
    for split in SPLITS:
        counts, lengths = statistics.splits[split], corpus.lengths(split)
        assert counts.sequences == len(lengths) == corpus.num_sequences(split)
        assert counts.tokens_with_specials == lengths.sum() == counts.tokens + 2 * counts.sequences
        assert counts.documents == len(set(corpus.documents(split).tolist()))
        own = [text for number, text in enumerate(kept) if number in corpus.documents(split)]
        assert counts.text_bytes == sum(len(text.encode()) for text in own)
        assert sum(task.tokens for task in counts.tasks.values()) == counts.tokens
        assert sum(task.documents for task in counts.tasks.values()) == counts.documents
        document_tokens = sorted(len(bert_tokenizer(text, add_special_tokens=False).input_ids) for text in own)
        distribution = counts.document_tokens
        assert distribution.max == document_tokens[-1]
        assert distribution.p50 == document_tokens[(len(document_tokens) + 1) // 2 - 1]
        assert distribution.p5 <= distribution.p50 <= distribution.p95 <= distribution.max
        edges = [*distribution.histogram_from, 10**9]
        in_bins = [sum(low <= n < high for n in document_tokens) for low, high in zip(edges, edges[1:], strict=False)]
        assert distribution.histogram == in_bins


def test_the_summary_is_for_people(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    summary = run(store, ListSource(some_texts(60)), causal_tokenizer).artifact.manifest.summary
    assert summary["tasks"] == "even, odd"
    assert summary["dropped"] == sum(not text for text in some_texts(60))
    assert summary.keys() == {"documents", "sequences", "tokens", "tasks", "heldout_documents", "dropped"}


def test_documents_without_tokens_are_dropped_and_keep_their_number(
    store: Store, bert_tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = tuple("\x01\x02" if number == 1 else f"word {number}" for number in range(40))
    corpus = TokenCorpus(run(store, ListSource(texts), bert_tokenizer, held_out_fraction=0.5).artifact)
    assert corpus.statistics.dropped == {"no tokens": 1}
    assert set(documents_of(corpus)) == set(range(40)) - {1}


@pytest.mark.parametrize("max_tokens", [1, 100, 333, 1000])
def test_max_tokens_stops_after_the_document_that_reaches_it(
    store: Store, causal_tokenizer: PreTrainedTokenizerBase, max_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 8)
    monkeypatch.setattr(ingest_module, "_BATCH_DOCUMENTS", 3)  # so that a shard has several
    monkeypatch.setattr(ingest_module, "_check_splits", lambda *_: None)  # one document is on one side only
    texts = some_texts(100)
    corpus = TokenCorpus(run(store, ListSource(texts), causal_tokenizer, max_tokens=max_tokens).artifact)
    documents = documents_of(corpus)
    assert corpus.statistics.tokens == sum(map(len, documents.values())) >= max_tokens
    assert corpus.statistics.tokens - len(documents[max(documents)]) < max_tokens
    assert set(documents) == set(range(len(documents)))


def test_max_documents_takes_the_first(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    source = ListSource(some_texts(100), fail_at=60)
    corpus = TokenCorpus(run(store, source, causal_tokenizer, max_documents=40).artifact)
    assert corpus.statistics.documents == 40


def test_a_second_run_finds_the_corpus(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    first = run(store, ListSource(some_texts(60)), causal_tokenizer)
    second = run(store, ListSource(some_texts(60), fail_at=0), causal_tokenizer)  # the source is not even read
    assert (first.found, second.found) == (False, True)
    assert first.artifact.digest == second.artifact.digest
    assert not run(store, ListSource(some_texts(60)), causal_tokenizer, split_seed=1).found


def written(store: Store) -> dict[str, tuple[int, int]]:
    """Identity of every shard file: it changes when the file is written again."""
    paths = {name: store.fetch(name) for name in store.list("corpus") if name.endswith(".arrow")}
    return {name: (path.stat().st_ino, path.stat().st_mtime_ns) for name, path in paths.items()}


@pytest.mark.parametrize(("max_tokens", "fails"), [(None, (5, 22, 23, 41)), (1800, (5, 22, 23))])
def test_an_interrupted_run_goes_on_at_the_shard_and_ends_with_the_same_digest(
    tmp_path: Path,
    causal_tokenizer: PreTrainedTokenizerBase,
    max_tokens: int | None,
    fails: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 8)
    monkeypatch.setattr(ingest_module, "_BATCH_DOCUMENTS", 3)
    texts = some_texts(70)
    config = {"max_tokens": max_tokens, "held_out_fraction": 0.3}
    whole = run(open_store(str(tmp_path / "whole")), ListSource(texts), causal_tokenizer, **config).artifact
    store = open_store(str(tmp_path / "resumed"))
    before: dict[str, tuple[int, int]] = {}
    for fail_at in fails:
        source = ListSource(texts, fail_at)
        with pytest.raises(RuntimeError, match="killed before"):
            run(store, source, causal_tokenizer, **config)
        assert before.items() <= written(store).items()
        before = written(store)
        assert len(before) == 2 * (len([text for text in texts[:fail_at] if text]) // 8)
        assert not any(name.endswith("manifest.json") for name in store.list("corpus"))
    resumed = run(store, ListSource(texts), causal_tokenizer, **config)
    assert before.items() < written(store).items()
    assert not resumed.found
    tokens = [len(causal_tokenizer(text, add_special_tokens=False).input_ids) for text in texts if text]
    enough = next((sum(tokens[:n]) for n in range(len(tokens)) if max_tokens and sum(tokens[:n]) >= max_tokens), None)
    assert resumed.artifact.manifest.summary["tokens"] == (enough or sum(tokens))
    assert resumed.artifact.digest == whole.digest
    assert not [name for name in store.list() if "/work/" in name]


def test_a_run_killed_just_before_publication_tokenises_nothing_again(
    tmp_path: Path, causal_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 8)
    source = ListSource(some_texts(56, empty_every=8))  # 49 documents: the last shard holds one
    whole = run(open_store(str(tmp_path / "whole")), source, causal_tokenizer).artifact
    store = open_store(str(tmp_path / "resumed"))
    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "_summary", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(store, source, causal_tokenizer)
    before = written(store)
    assert run(store, source, causal_tokenizer).artifact.digest == whole.digest
    assert written(store) == before


def test_a_corpus_that_fills_its_last_shard_has_no_empty_shard(
    tmp_path: Path, causal_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 20)
    texts = (*(f"text {number}" for number in range(40)), "", "")
    artifact = run(open_store(str(tmp_path)), ListSource(texts), causal_tokenizer, held_out_fraction=0.4).artifact
    assert artifact.paths("train/tokens") == ["train/tokens-00000.arrow", "train/tokens-00001.arrow"]
    assert TokenCorpus(artifact).statistics.dropped == {"empty text": 2}


def test_a_shard_without_held_out_documents_has_an_empty_file(
    store: Store, causal_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 1)
    corpus = TokenCorpus(run(store, ListSource(some_texts(40)), causal_tokenizer).artifact)
    heldout, train = (corpus.artifact.paths(f"{split}/tokens") for split in ("heldout", "train"))
    assert len(heldout) == len(train) == corpus.statistics.documents
    assert len(documents_of(corpus)) == corpus.statistics.documents


def test_an_empty_corpus_is_refused_and_says_what_was_dropped(
    store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(CorpusError, match=r"test:list holds no document to use \(left out: 3 with empty text\)"):
        run(store, ListSource(("", "", "")), causal_tokenizer)
    with pytest.raises(CorpusError, match=r"holds no document to use\.$"):
        run(store, ListSource(()), causal_tokenizer)
    assert not any(name.endswith("manifest.json") for name in store.list())


def test_a_single_document_cannot_be_split(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(CorpusError, match="[Tt]he (train|heldout) split .*is empty.*A document is never divided"):
        run(store, ListSource(("one long document",)), causal_tokenizer)


def test_a_column_of_ids_is_not_taken_for_tasks(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    lines = [json.dumps({"text": f"text {n}", "task": f"id-{n}"}) for n in range(1001)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match="more than 1,000 tasks, for example 'id-0'"):
        run(store, open_source(str(tmp_path / "a.jsonl"), store), causal_tokenizer)


def test_a_full_disk_leaves_finished_shards_to_go_on_from(
    tmp_path: Path, causal_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 8)
    texts = (*some_texts(20), "long " * 100_000, *some_texts(20))
    whole = run(open_store(str(tmp_path / "whole")), ListSource(texts), causal_tokenizer).artifact
    store = open_store(str(tmp_path / "small"))
    old_limit, old_handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with pytest.raises(StorageFull, match="run the same command again"):
            run(store, ListSource(texts), causal_tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    before = written(store)
    assert len(before) == 4
    assert run(store, ListSource(texts), causal_tokenizer).artifact.digest == whole.digest
    assert before.items() < written(store).items()


def test_specials_that_fill_the_context_are_refused(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(causal_tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(single=f"{'<s> ' * 8}$A", special_tokens=[("<s>", 0)])
    with pytest.raises(ConfigError, match="context_length 8 leaves no room beside 8 special tokens"):
        run(store, ListSource(("a",)), PreTrainedTokenizerFast(tokenizer_object=backend), context_length=8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_length": 7},
        {"context_length": 32_769},
        {"held_out_fraction": 0},
        {"held_out_fraction": 0.6},
        {"max_tokens": 0},
        {"unknown": 1},
    ],
)
def test_a_config_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        IngestConfig(**{"context_length": 16, **wrong})  # type: ignore[arg-type]


def test_real_stories_survive_a_round_trip_through_their_models_tokenizer(shared_data: Path, store: Store) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "stories260K")
    source = open_source(str(shared_data / "corpora" / "stories_tinystories.jsonl"), store)
    corpus = TokenCorpus(run(store, source, tokenizer, context_length=128, max_documents=200).artifact)
    texts = [document.text for document, _ in zip(source.documents(), range(200), strict=False)]
    tokens = documents_of(corpus)
    assert [tokenizer.decode(tokens[number]) for number in range(200)] == texts
    assert all(row.token_ids[0] == 1 and 1 not in row.token_ids[1:] for _, row in rows(corpus))


def test_real_labels_and_tasks_reach_the_rows(
    shared_data: Path, store: Store, bert_tokenizer: PreTrainedTokenizerBase
) -> None:
    source = open_source(str(shared_data / "corpora" / "toxicity_surge.jsonl"), store)
    corpus = TokenCorpus(run(store, source, bert_tokenizer, context_length=64).artifact)
    labels = [document.label for document in source.documents()]
    for _, row in rows(corpus):
        assert row.label == labels[row.document]
        assert row.task == "toxicity_surge"


def test_the_recipe_names_source_and_tokenizer(store: Store, causal_tokenizer: PreTrainedTokenizerBase) -> None:
    source = ListSource(some_texts(60))
    manifest = run(store, source, causal_tokenizer).artifact.manifest
    assert manifest.inputs["source"] == InputRef(uri=source.uri, digest=source.digest)
    assert manifest.inputs["tokenizer"].uri == "test:tokenizer"
    recipe = Recipe(kind="corpus", config=manifest.config, inputs=manifest.inputs, seed=manifest.seed)
    assert store.size(f"{recipe.prefix}/manifest.json")


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"max_tokens": 3}, "max_tokens 3 ended the reading there"),
        ({"max_documents": 1, "max_tokens": None}, "max_documents 1 ended the reading there"),
        ({"max_tokens": None, "held_out_fraction": 1e-9}, "try a larger held_out_fraction"),
    ],
)
def test_an_empty_split_is_told_with_what_made_it_so(
    settings: dict[str, object], cause: str, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(CorpusError, match=rf"split of test:list is empty.*{cause}"):
        run(store, ListSource(some_texts(30)), causal_tokenizer, **settings)


def test_documents_go_in_batches_of_bounded_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "_BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(ingest_module, "_BATCH_CHARS", 10)
    lengths = [4, 4, 4, 1, 1, 1, 1, 30, 9, 1, 2]
    batches = ingest_module._batches(Document("x" * length, "") for length in lengths)
    assert [[len(document.text) for document in batch] for batch in batches] == [
        [4, 4, 4],
        [1, 1, 1],
        [1, 30],
        [9, 1],
        [2],
    ]


def test_the_summary_names_the_column_that_the_text_came_from(
    tmp_path: Path, store: Store, causal_tokenizer: PreTrainedTokenizerBase
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"content": f"number {number}"}) + "\n" for number in range(40)))
    summary = run(store, open_source(str(path), store), causal_tokenizer).artifact.manifest.summary
    assert summary["text_column"] == "content"
    assert "text_column" not in run(store, ListSource(some_texts(40)), causal_tokenizer).artifact.manifest.summary
