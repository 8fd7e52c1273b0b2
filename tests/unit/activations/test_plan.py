"""The plan of a capture: for any lengths, each sequence once, in batches and shards of bounded size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mistudio.activations.plan import CapturePlan, like_lengths, plan_capture

LENGTHS = st.lists(st.integers(min_value=1, max_value=40), max_size=60)


def make(
    lengths: list[int], num_special: int = 0, shard_rows: int = 50, batch_tokens: int = 80, max_rows: int | None = None
) -> CapturePlan:
    return plan_capture(np.array(lengths, dtype=np.int32), num_special, shard_rows, batch_tokens, max_rows)


def sequences(plan: CapturePlan) -> list[int]:
    return sorted(index for shard in plan.shards for batch in plan.batches(shard) for index in batch.tolist())


@given(lengths=LENGTHS, shard_rows=st.integers(1, 100), batch_tokens=st.integers(1, 200))
def test_every_sequence_is_in_exactly_one_batch(lengths: list[int], shard_rows: int, batch_tokens: int) -> None:
    plan = make(lengths, 0, shard_rows, batch_tokens)
    assert sequences(plan) == list(range(len(lengths)))
    assert plan.num_rows == sum(lengths)


@given(lengths=LENGTHS, num_special=st.integers(0, 3), shard_rows=st.integers(1, 100))
def test_a_shard_has_at_most_its_rows_unless_it_is_one_long_sequence(
    lengths: list[int], num_special: int, shard_rows: int
) -> None:
    plan = make(lengths, num_special, shard_rows)
    kept = [max(length - num_special, 0) for length in lengths]
    for shard in plan.shards:
        rows = kept[shard.first : shard.stop]
        assert sum(rows) == shard.num_rows > 0
        assert shard.num_rows <= shard_rows or sum(row > 0 for row in rows) == 1
    assert plan.num_rows == sum(kept)


@given(lengths=LENGTHS, shard_rows=st.integers(1, 100))
def test_shards_follow_each_other_and_no_two_would_fit_into_one(lengths: list[int], shard_rows: int) -> None:
    shards = make(lengths, 0, shard_rows).shards
    for before, after in zip(shards, shards[1:], strict=False):
        assert before.stop == after.first
        assert before.num_rows + lengths[after.first] > shard_rows


@given(lengths=LENGTHS, batch_tokens=st.integers(1, 200))
def test_a_batch_is_bounded_with_its_padding_unless_it_is_one_long_sequence(
    lengths: list[int], batch_tokens: int
) -> None:
    plan = make(lengths, batch_tokens=batch_tokens)
    for shard in plan.shards:
        for batch in plan.batches(shard):
            assert len(batch) * max(lengths[index] for index in batch) <= batch_tokens or len(batch) == 1


@given(lengths=LENGTHS, max_rows=st.integers(1, 300), num_special=st.integers(0, 3))
def test_a_bounded_plan_ends_with_the_sequence_that_reaches_the_bound(
    lengths: list[int], max_rows: int, num_special: int
) -> None:
    plan = make(lengths, num_special, max_rows=max_rows)
    kept = [max(length - num_special, 0) for length in lengths]
    assert plan.num_rows <= sum(kept)
    if plan.num_rows < sum(kept):
        assert plan.num_rows >= max_rows
        last = plan.shards[-1].stop - 1
        assert sum(kept[:last]) < max_rows <= sum(kept[: last + 1])
        assert sequences(plan) == list(range(last + 1))


def test_sequences_of_like_length_share_a_batch_longest_first() -> None:
    plan = make([3, 40, 2, 39, 3, 1], shard_rows=1000, batch_tokens=80)
    assert [batch.tolist() for batch in plan.batches(plan.shards[0])] == [[1, 3], [0, 4, 2, 5]]


def test_the_padding_fraction_counts_what_is_passed_through_the_model_for_nothing() -> None:
    assert make([10, 10, 10]).padding_fraction() == 0
    assert make([10, 5], batch_tokens=20).padding_fraction() == 0.25
    assert make([10, 5], batch_tokens=10).padding_fraction() == 0
    assert make([]).padding_fraction() == 0


def test_documents_of_many_lengths_leave_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(2, 129, 5000).astype(np.int32)
    assert plan_capture(lengths, 1, 1 << 20, 32 * 128).padding_fraction() < 0.03


def test_a_corpus_without_sequences_has_an_empty_plan() -> None:
    plan = make([])
    assert (plan.shards, plan.num_rows) == ((), 0)
    assert make([2, 2], num_special=2).num_rows == 0


@given(lengths=st.lists(st.integers(min_value=0, max_value=40), max_size=60), batch_tokens=st.integers(1, 200))
def test_batches_hold_every_sequence_once_and_no_more_tokens_than_asked(lengths: list[int], batch_tokens: int) -> None:
    lengths_S = np.array(lengths, dtype=np.int32)
    batches = list(like_lengths(lengths_S, batch_tokens))
    assert sorted(number for batch in batches for number in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) * lengths_S[batch].max() <= batch_tokens or len(batch) == 1 for batch in batches)
