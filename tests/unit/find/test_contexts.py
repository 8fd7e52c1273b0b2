"""The bounded search for top contexts against a sort of everything."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load, save

from mistudio.find.contexts import ChunkRows, PrioritySample, TopContexts
from mistudio.sae import ActiveLatents

FEATURES, CONTEXTS, BEFORE, AFTER = 5, 3, 2, 1


class Text(NamedTuple):
    """A sequence: its document, its number, the position of its first token, and activations [T, F]."""

    document: int
    sequence: int
    start: int
    acts_TF: NDArray[np.float32]


class Context(NamedTuple):
    value: float
    document: int
    sequence: int
    position: int
    window: tuple[float, ...]


@st.composite
def corpora(draw: st.DrawFn) -> list[Text]:
    """Sequences of a few documents, with few different activations, so that ties are common."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=14))
    num_documents = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    levels = draw(st.integers(1, 5))
    density = draw(st.sampled_from([0.1, 0.5, 1.0]))
    numbers = rng.permutation(len(lengths))
    texts = []
    for sequence, length in zip(numbers, lengths, strict=True):
        acts_TF = rng.integers(1, levels + 1, (length, FEATURES)) * (rng.random((length, FEATURES)) < density)
        start = int(rng.choice([-1, -1, 0, 40]))  # a special token before the text has the position -1
        texts.append(Text(int(sequence) % num_documents, int(sequence), start, acts_TF.astype(np.float32)))
    return texts


def search(chunks: list[list[Text]], contexts: int = CONTEXTS) -> TopContexts:
    top = TopContexts(FEATURES, contexts, BEFORE, AFTER)
    for chunk in chunks:
        feed(top, chunk)
    return top


def feed(top: TopContexts, chunk: list[Text]) -> None:
    acts_NF = torch.from_numpy(np.concatenate([text.acts_TF for text in chunk]))
    token_A, feature_A = acts_NF.nonzero(as_tuple=True)
    lengths = [len(text.acts_TF) for text in chunk]
    position_N = np.concatenate([np.arange(len(text.acts_TF)) + text.start for text in chunk])
    rows = ChunkRows(
        np.repeat([text.document for text in chunk], lengths).astype(np.int32),
        np.repeat([text.sequence for text in chunk], lengths).astype(np.int32),
        position_N.astype(np.int32),
    )
    top.update(ActiveLatents(token_A, feature_A, acts_NF[token_A, feature_A]), rows)


def rows_of(chunk: list[Text]) -> ChunkRows:
    lengths = [len(text.acts_TF) for text in chunk]
    position_N = np.concatenate([np.arange(len(text.acts_TF)) + text.start for text in chunk])
    document, sequence = ([getattr(text, name) for text in chunk] for name in ("document", "sequence"))
    return ChunkRows(*(np.repeat(column, lengths).astype(np.int32) for column in (document, sequence)), position_N)


def found(top: TopContexts, feature: int) -> list[Context]:
    ranks = np.flatnonzero(top.ints_FC["document"][feature] >= 0)
    assert ranks.tolist() == list(range(len(ranks)))  # no holes
    places = [top.ints_FC[name][feature] for name in ("document", "sequence", "position")]
    return [
        Context(
            float(top.value_FC[feature, rank]),
            *(int(place[rank]) for place in places),
            tuple(top.window_FCW[feature, rank].tolist()),
        )
        for rank in ranks
    ]


def sorted_in_full(texts: list[Text], feature: int, contexts: int = CONTEXTS) -> list[Context]:
    """All peaks of a feature, sorted; the first of each document; the first few of those."""
    peaks = []
    for text in texts:
        padded = np.full(BEFORE + len(text.acts_TF) + AFTER, np.nan)
        padded[BEFORE : BEFORE + len(text.acts_TF)] = text.acts_TF[:, feature]
        for place, value in enumerate(text.acts_TF[:, feature]):
            if value > 0:
                window = tuple(padded[place : place + BEFORE + 1 + AFTER].tolist())
                peaks.append(Context(float(value), text.document, text.sequence, text.start + place, window))
    peaks.sort(key=lambda peak: (-peak.value, peak.document, peak.sequence, peak.position))
    best: dict[int, Context] = {}
    for peak in peaks:
        best.setdefault(peak.document, peak)
    return list(best.values())[:contexts]


def same(one: list[Context], other: list[Context]) -> bool:
    windows = [[context.window for context in contexts] for contexts in (one, other)]
    return [context[:4] for context in one] == [context[:4] for context in other] and (
        np.array_equal(np.array(windows[0]), np.array(windows[1]), equal_nan=True)
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(corpora(), st.data())
def test_the_search_equals_a_full_sort_however_the_sequences_are_cut_and_ordered(
    texts: list[Text], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(texts))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(texts) - 1, 1)))) if len(texts) > 1 else [])
    bounds = [0, *cuts, len(texts)]
    top = search([order[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)])
    for feature in range(FEATURES):
        assert same(found(top, feature), sorted_in_full(texts, feature)), feature


def large_corpus(num_sequences: int = 400) -> list[Text]:
    rng = np.random.default_rng(1)
    return [
        Text(sequence // 3, sequence, 0, (rng.random((20, FEATURES)) * (rng.random((20, FEATURES)) < 0.3)).astype("f4"))
        for sequence in range(num_sequences)
    ]


@pytest.mark.parametrize("contexts", [1, 20, 1000])
def test_recall_is_complete_on_many_real_valued_peaks(contexts: int) -> None:
    texts = large_corpus()
    top = search([texts[start : start + 30] for start in range(0, len(texts), 30)], contexts)
    for feature in range(FEATURES):
        expected = sorted_in_full(texts, feature, contexts)
        assert len(expected) == min(contexts, 134)
        assert same(found(top, feature), expected)
        documents = [context.document for context in found(top, feature)]
        assert len(set(documents)) == len(documents)


def test_features_that_never_fire_have_no_contexts_and_leave_no_trace() -> None:
    texts = large_corpus(20)
    for text in texts:
        text.acts_TF[:, 2] = 0
    top = search([texts])
    assert found(top, 2) == []
    assert found(top, 1)
    assert (top.ints_FC["document"][2] == -1).all()
    assert np.isnan(top.window_FCW[2]).all()


def test_a_chunk_in_which_nothing_is_active_changes_nothing() -> None:
    texts = large_corpus(20)
    top = search([texts])
    before = [found(top, feature) for feature in range(FEATURES)]
    feed(top, [Text(99, 99, 0, np.zeros((4, FEATURES), np.float32))])
    assert all(same(found(top, feature), before[feature]) for feature in range(FEATURES))


def test_windows_stop_at_the_sequence_even_where_the_document_goes_on() -> None:
    ones = np.ones((3, FEATURES), np.float32)
    top = search([[Text(0, 0, 0, ones), Text(0, 1, 3, ones * 2)]])
    (context,) = found(top, 0)
    assert (context.sequence, context.position) == (1, 3)
    assert np.isnan(context.window[:BEFORE]).all()
    assert context.window[BEFORE:] == (2.0, 2.0)


def test_tokens_on_which_the_feature_is_silent_read_zero_in_the_window() -> None:
    acts_TF = np.zeros((4, FEATURES), np.float32)
    acts_TF[[0, 2], 3] = 1.5, 2.5
    top = search([[Text(0, 0, 10, acts_TF)]])
    (context,) = found(top, 3)
    assert context == Context(2.5, 0, 0, 12, (1.5, 0.0, 2.5, 0.0))


def test_a_search_goes_on_from_its_saved_state() -> None:
    texts = large_corpus()
    whole = search([texts[:200], texts[200:]])
    half = search([texts[:200]])
    resumed = TopContexts(FEATURES, CONTEXTS, BEFORE, AFTER)
    resumed.load_state_dict(load(save(half.state_dict())))
    feed(resumed, texts[200:])
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name].nan_to_num(-1), value.nan_to_num(-1)), name


def test_memory_does_not_grow_with_the_tokens() -> None:
    def sizes(num_sequences: int) -> dict[str, int]:
        texts = large_corpus(num_sequences)
        return {name: value.nbytes for name, value in search([texts]).state_dict().items()}

    assert sizes(400) == sizes(4)
    assert sum(sizes(4).values()) == FEATURES * CONTEXTS * 4 * (4 + BEFORE + 1 + AFTER)


@pytest.mark.parametrize("cuts", [[400], [100, 150, 400], [1, 2, 399, 400]])
@pytest.mark.parametrize("at_once", [1, 5, 1 << 17])
def test_searches_of_parts_put_together_equal_one_over_all(
    monkeypatch: pytest.MonkeyPatch, cuts: list[int], at_once: int
) -> None:
    texts = large_corpus()
    expected = search([texts]).state_dict()
    monkeypatch.setattr("mistudio.find.contexts._MERGED_AT_ONCE", at_once)
    whole, merged = search([texts]), TopContexts(FEATURES, CONTEXTS, BEFORE, AFTER)
    for start, stop in reversed(list(zip([0, *cuts], cuts, strict=False))):
        merged.merge(load(save(search([texts[start:stop]]).state_dict())))
    for name, value in whole.state_dict().items():
        assert torch.equal(merged.state_dict()[name].nan_to_num(-1), value.nan_to_num(-1)), name
        assert torch.equal(expected[name].nan_to_num(-1), value.nan_to_num(-1)), name


def drawn(texts: list[Text], seed: int, contexts: int) -> TopContexts:
    pool, lottery = TopContexts(FEATURES, contexts, BEFORE, AFTER), PrioritySample(FEATURES, seed)
    for start in range(0, len(texts), 50):
        acts_NF = torch.from_numpy(np.concatenate([text.acts_TF for text in texts[start : start + 50]]))
        token_A, feature_A = acts_NF.nonzero(as_tuple=True)
        active, rows = (
            ActiveLatents(token_A, feature_A, acts_NF[token_A, feature_A]),
            rows_of(texts[start : start + 50]),
        )
        pool.update(active, rows, lottery.draw(active, rows))
    return pool


def test_contexts_drawn_by_lot_are_spread_evenly_over_the_activations() -> None:
    rng = np.random.default_rng(0)
    texts = [Text(number, number, 0, rng.random((1, FEATURES)).astype("f4")) for number in range(4_000)]
    pool = drawn(texts, seed=3, contexts=400)
    for feature in range(FEATURES):
        values = pool.window_FCW[feature, :, BEFORE]
        counts, _ = np.histogram(values, bins=5, range=(0, 1))
        assert counts.min() > 50  # 80 are expected, and the standard deviation is 8
        assert counts.max() < 110
    chosen = [set(pool.ints_FC["document"][feature].tolist()) for feature in range(FEATURES)]
    shared = [len(chosen[0] & other) for other in chosen[1:]]
    assert max(shared) < 90  # 40 are expected of independent draws
    other = drawn(texts, seed=4, contexts=400)
    assert len(chosen[0] & set(other.ints_FC["document"][0].tolist())) < 90
    again = drawn(texts[::-1], seed=3, contexts=400)
    assert np.array_equal(again.ints_FC["document"], pool.ints_FC["document"])


def test_the_windows_of_drawn_contexts_hold_activations_and_not_lots() -> None:
    texts = large_corpus(40)
    pool = drawn(texts, seed=0, contexts=5)
    for feature in range(FEATURES):
        for rank in range(5):
            sequence, position = (pool.ints_FC[name][feature, rank] for name in ("sequence", "position"))
            assert pool.window_FCW[feature, rank, BEFORE] == texts[sequence].acts_TF[position, feature] > 0
