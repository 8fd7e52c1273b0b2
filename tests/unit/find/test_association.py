"""Tokens that go with features, and the coherence of contexts, against counting by hand."""

import numpy as np
import pytest
from scipy import sparse

from mistudio.find.association import associations, chance_agreement, coherence
from mistudio.find.sample import Sample

TOKENS = ["a", " A", "b", "c", "d"]


def sample_of(token_ids: list[int], acts_NF: list[list[float]]) -> Sample:
    rows = np.arange(len(token_ids))
    nothing = np.zeros(len(token_ids), np.int32)
    ids = np.array(token_ids, dtype=np.int32)
    return Sample(nothing, nothing, nothing, ids, rows, rows + 1, sparse.csr_array(np.array(acts_NF, np.float32)))


def test_tokens_are_ranked_by_shrunk_lift_and_by_mean_activation() -> None:
    ids = [0, 0, 0, 0, 2, 2, 3, 3, 3, 3]
    acts = [1, 1, 1, 0, 9, 0, 0, 0, 0, 0]
    found = associations(sample_of(ids, [[act, 0] for act in acts]), len(TOKENS), 3)
    density = 4 / 10
    assert found.lift.tokens == [[0, 2], []]
    assert found.lift.values[0] == pytest.approx([3 / (4 * density + 1), 1 / (2 * density + 1)])
    assert found.mean.tokens == [[2, 0], []]
    assert found.mean.values[0] == pytest.approx([9 / 3, 3 / 5])
    assert associations(sample_of(ids, [[act, 0] for act in acts]), len(TOKENS), 1).mean.tokens == [[2], []]


def coherence_of(sequences: list[list[int]], peaks: list[int], chance: float = 0.0) -> float:
    return coherence([np.array(ids, dtype=np.int32) for ids in sequences], peaks, TOKENS, chance)


def test_contexts_with_one_token_at_the_peak_or_near_it_are_fully_coherent() -> None:
    assert coherence_of([[0, 2], [1, 3], [0, 4]], [0, 0, 0]) == 1  # "a" and " A" are alike
    assert coherence_of([[2, 3], [2, 4], [2, 0]], [1, 1, 1]) == 1  # the token before


def test_coherence_is_the_share_of_pairs_that_agree_beyond_chance() -> None:
    sequences = [[2, 0], [2, 1], [3, 2], [4, 3]]
    assert coherence_of(sequences, [0] * 4) == pytest.approx(1 / 6)
    assert coherence_of(sequences, [0] * 4, chance=0.1) == pytest.approx((1 / 6 - 0.1) / 0.9)
    assert coherence_of(sequences, [0] * 4, chance=0.5) == 0
    assert np.isnan(coherence_of([[1, 2]], [0]))


def test_tokens_beyond_the_ends_of_sequences_agree_with_nothing() -> None:
    assert coherence_of([[2], [3], [4]], [0, 0, 0]) == 0


def test_chance_is_the_share_of_pairs_of_tokens_that_are_alike() -> None:
    sample = sample_of([0, 1, 2, 3], [[0.0]] * 4)
    assert chance_agreement(sample, TOKENS) == pytest.approx(2 / 12)
