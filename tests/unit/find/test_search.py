"""Parts of a search put together: the same bytes as one pass, however the sequences are cut and dealt out."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load, save

from mistudio.activations import ActivationReader
from mistudio.corpus.reader import TokenCorpus
from mistudio.find.config import FindConfig
from mistudio.find.search import MAX_TASKS, Search, chunks_of_part, shown_tasks
from mistudio.sae import ActiveLatents
from tests.support.tiny_run import HOOK, TinyRun

FEATURES = 16
CONFIG = FindConfig(contexts=4, sampled_contexts=3, context_before=3, context_after=2, sample_tokens=1024)
GIB = 1 << 30

Chunk = tuple[ActiveLatents, Mapping[str, NDArray[np.int32]]]


def chunks_of(corpus: TokenCorpus) -> list[Chunk]:
    """One chunk a sequence, with activations drawn from few values, so that ties are common."""
    rng = np.random.default_rng(0)
    return [_chunk(corpus, sequence, rng) for sequence in range(corpus.num_sequences("train"))]


def _chunk(corpus: TokenCorpus, sequence: int, rng: np.random.Generator) -> Chunk:
    text = corpus.sequence("train", sequence)
    ids = text.token_ids[1:]
    acts_NF = torch.from_numpy((rng.integers(1, 9, (len(ids), FEATURES)) * 0.3).astype(np.float32))
    acts_NF[torch.from_numpy(rng.random((len(ids), FEATURES)) < 0.8)] = 0
    token_A, feature_A = acts_NF.nonzero(as_tuple=True)
    meta = {
        "document": np.full(len(ids), text.document, np.int32),
        "sequence": np.full(len(ids), sequence, np.int32),
        "position": (np.arange(len(ids)) + text.start).astype(np.int32),
        "token_id": ids.astype(np.int32),
    }
    return ActiveLatents(token_A, feature_A, acts_NF[token_A, feature_A]), meta


def searched(corpus: TokenCorpus, chunks: list[Chunk], seed: int) -> Search:
    search = Search(FEATURES, 0.7, 3_000, corpus, CONFIG, seed)
    for chunk in chunks:
        search.update(*chunk)
    return search


def content(search: Search) -> dict[str, bytes]:
    """All that is published from, as bytes; the sample in the order in which it is used."""
    held = {name: value for name, value in search.state_dict().items() if not name.startswith("sample.")}
    sample = search.sample.sample()
    columns = {**sample._asdict(), "data": sample.acts_NF.data, "indices": sample.acts_NF.indices}
    columns["indptr"] = sample.acts_NF.indptr
    del columns["acts_NF"]
    return {name: value.numpy().tobytes() for name, value in held.items()} | {
        name: np.ascontiguousarray(value).tobytes() for name, value in columns.items()
    }


@pytest.fixture(scope="module")
def corpus(llama: TinyRun) -> TokenCorpus:
    return TokenCorpus(llama.corpus)


@pytest.fixture(scope="module")
def chunks(corpus: TokenCorpus) -> list[Chunk]:
    return chunks_of(corpus)


@cache
def _whole(seed: int, corpus: TokenCorpus) -> dict[str, bytes]:
    return content(searched(corpus, chunks_of(corpus), seed))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2), data=st.data())
def test_parts_put_together_are_the_same_bytes_as_one_pass(
    corpus: TokenCorpus, chunks: list[Chunk], seed: int, data: st.DataObject
) -> None:
    num_parts = data.draw(st.integers(1, 12))
    part_of = data.draw(st.lists(st.integers(0, num_parts - 1), min_size=len(chunks), max_size=len(chunks)))
    order = data.draw(st.permutations(range(num_parts)))
    merged = Search(FEATURES, 0.7, 3_000, corpus, CONFIG, seed)
    for part in order:
        own = [chunk for chunk, number in zip(chunks, part_of, strict=True) if number == part]
        merged.merge(load(save(searched(corpus, own, seed).state_dict())))
    assert content(merged) == _whole(seed, corpus)


def test_another_seed_draws_other_contexts_and_another_sample(corpus: TokenCorpus) -> None:
    one, other = _whole(0, corpus), _whole(1, corpus)
    same = {name for name in one if one[name] == other[name]}
    assert {"top.value", "statistics.histogram_FH"} <= same
    assert not {"pool.value", "pool.document", "sequence", "data"} & same


def test_the_sample_is_whole_sequences_with_all_that_is_active(corpus: TokenCorpus, chunks: list[Chunk]) -> None:
    sample = searched(corpus, chunks, 0).sample.sample()
    share = len(np.unique(sample.sequence)) / len(chunks)
    assert abs(share - 1024 / 3_000) < 0.1
    for sequence in np.unique(sample.sequence):
        active, meta = chunks[sequence]
        rows = np.flatnonzero(sample.sequence == sequence)
        assert (sample.first[rows] == rows[0]).all()
        assert (sample.stop[rows] == rows[-1] + 1).all()
        assert sample.token_id[rows].tolist() == meta["token_id"].tolist()
        dense_NF = np.zeros((len(rows), FEATURES), np.float32)
        dense_NF[active.token_A, active.feature_A] = active.value_A
        assert np.array_equal(sample.acts_NF[rows].toarray(), dense_NF)


@pytest.mark.parametrize("num_parts", [1, 3, 7, 1000])
def test_parts_of_the_chunks_are_neighbours_and_together_all(llama: TinyRun, num_parts: int) -> None:
    reader = ActivationReader(llama.activations, HOOK, "train")
    parts = [chunks_of_part(reader, 64, part, num_parts) for part in range(num_parts)]
    flat = [chunk for part in parts for chunk in part]
    assert [chunk.start for chunk in flat] == [0, *(chunk.stop for chunk in flat[:-1])]
    assert flat[-1].stop == len(reader)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    ends = set(reader.sequence_ends().tolist())
    assert all(chunk.stop in ends for chunk in flat)


def test_many_tasks_are_counted_as_the_largest_and_others(corpus: TokenCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_tasks(corpus) == ["code", "list", "story"]
    tasks = corpus.statistics.splits["train"].tasks
    many = {f"task {number}": tasks["code"].model_copy(update={"tokens": number}) for number in range(200)}
    monkeypatch.setattr(corpus.statistics.splits["train"], "tasks", many)
    shown = shown_tasks(corpus)
    assert len(shown) == MAX_TASKS
    assert shown[-1] == "other"
    assert "task 199" in shown
    assert "task 100" not in shown


def test_131072_features_fit_into_8_gb(corpus: TokenCorpus) -> None:
    small = {width: Search(width, 0.7, 10**9, corpus, FindConfig(), 0).num_bytes for width in (1024, 4096)}
    a_feature = (small[4096] - small[1024]) / 3072
    sample = 131_072 * (20 + 64 * 8)  # 64 active features a token
    # Held, a part that is being put to it, and the lists that the tables are written from (about 4 KiB a feature).
    needed = 131_072 * (2 * a_feature + 4096) + 3 * sample
    assert small[1024] - 1024 * a_feature < 1 << 16
    assert needed < 8 * GIB * 0.6, f"{needed / GIB:.2f} GiB"


def test_memory_does_not_grow_with_the_tokens(corpus: TokenCorpus, chunks: list[Chunk]) -> None:
    def held(search: Search) -> int:
        return sum(value.nbytes for name, value in search.state_dict().items() if not name.startswith("sample."))

    assert held(searched(corpus, chunks, 0)) == held(searched(corpus, chunks[:3], 0))
