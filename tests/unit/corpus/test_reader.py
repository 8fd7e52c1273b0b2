import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from mistudio.artifacts import InputRef, Store
from mistudio.corpus import ingest as ingest_module
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.documents import Document
from mistudio.corpus.ingest import ingest
from mistudio.corpus.reader import SPLITS, TokenCorpus
from mistudio.errors import DamagedArtifact, InputError
from tests.support.indexed import opened_files


class Documents:
    """Documents whose tasks first appear in different shards, in another order than the alphabet's."""

    uri = "test:documents"
    digest = "1" * 64

    def documents(self, dropped: object = None) -> list[Document]:
        tasks = ["prose", "code", "docstring", "asides"]
        return [
            Document(f"{n}: " + "word " * (n * 7 % 30), tasks[n // 20], f"L{n}" if n % 2 else None) for n in range(80)
        ]


@pytest.fixture
def corpus(
    store: Store,
    causal_tokenizer: PreTrainedTokenizerBase,
    tokenizer_ref: InputRef,
    monkeypatch: pytest.MonkeyPatch,
) -> TokenCorpus:
    monkeypatch.setattr(ingest_module, "SHARD_DOCUMENTS", 7)
    monkeypatch.setattr(ingest_module, "_BATCH_DOCUMENTS", 3)
    config = IngestConfig(context_length=16, held_out_fraction=0.4)
    return TokenCorpus(ingest(store, Documents(), causal_tokenizer, tokenizer_ref, config).artifact)  # type: ignore[arg-type]


def test_a_batch_in_any_order_is_its_sequences(corpus: TokenCorpus) -> None:
    for split in SPLITS:
        order = np.random.default_rng(0).permutation(corpus.num_sequences(split))
        batch = corpus.batch(split, order)
        for place, index in enumerate(order.tolist()):
            row = corpus.sequence(split, index)
            assert np.array_equal(batch.token_ids[place], row.token_ids)
            assert (batch.document[place], batch.start[place], batch.task[place]) == row[1:4]


def test_rows_come_in_the_order_of_documents_across_shards(corpus: TokenCorpus) -> None:
    documents = Documents().documents()
    for split in SPLITS:
        assert (np.diff(corpus.documents(split)) >= 0).all()
        for index in range(corpus.num_sequences(split)):
            row = corpus.sequence(split, index)
            assert (row.task, row.label) == (documents[row.document].task, documents[row.document].label)
            assert len(row.token_ids) == corpus.lengths(split)[index]
    assert corpus.tasks == ["asides", "code", "docstring", "prose"]


def test_token_ids_are_views_into_the_file_and_read_only(corpus: TokenCorpus) -> None:
    first, again = (corpus.sequence("train", 0).token_ids for _ in range(2))
    assert first.dtype == np.int32
    assert first.ctypes.data == again.ctypes.data
    assert not first.flags.writeable


def test_an_empty_batch_is_empty(corpus: TokenCorpus) -> None:
    batch = corpus.batch("train", [])
    assert batch.token_ids == []
    assert len(batch.document) == len(batch.start) == len(batch.task) == 0


@pytest.mark.parametrize("index", [-1, 10**6])
def test_a_sequence_out_of_range_is_refused(corpus: TokenCorpus, index: int) -> None:
    with pytest.raises(InputError, match="There is no sequence"):
        corpus.sequence("train", index)
    with pytest.raises(InputError, match="There is no sequence"):
        corpus.batch("train", [0, index])


def test_a_damaged_shard_is_refused(corpus: TokenCorpus, store: Store) -> None:
    path = store.fetch(f"{corpus.artifact.uri}/train/tokens-00001.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    lengths = corpus.lengths("train")  # of the index
    with pytest.raises(DamagedArtifact, match=r"train/tokens-00001\.arrow has other content"):
        corpus.batch("train", range(len(lengths)))


def test_only_the_shards_of_what_is_read_are_opened(corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opened_files(monkeypatch)
    corpus.lengths("train")
    corpus.documents("train")
    assert opened == {f"{corpus.artifact.uri}/train/index.arrow"}
    last = corpus.num_sequences("train") - 1
    corpus.batch("train", [last, last - 1])
    shards = corpus.artifact.paths("train/tokens")
    assert len(shards) > 2
    assert opened == {f"{corpus.artifact.uri}/train/index.arrow", f"{corpus.artifact.uri}/{shards[-1]}"}


def test_a_shard_that_is_not_what_the_index_says_is_refused(
    corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a manifest was made by hand around files of two corpora."""
    file = corpus.artifact.file
    other = {"train/tokens-00001.arrow": "train/tokens-00002.arrow"}
    monkeypatch.setattr(type(corpus.artifact), "file", lambda _self, path: file(other.get(path, path)))
    with pytest.raises(DamagedArtifact, match=r"train/tokens-00001\.arrow has other sequences than its index says"):
        corpus.batch("train", range(corpus.num_sequences("train")))
