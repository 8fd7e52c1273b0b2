"""Shuffled batches: every row once an epoch, from all over the corpus, resumable at any batch, in bounded memory."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader, ActivationStream, ShuffledBatches
from mistudio.activations.stream import Ranges
from mistudio.artifacts import Artifact, Store, open_store
from tests.unit.activations.conftest import HOOK, publish_rows, row_numbers

SHARDS = ([40] * 25, [7] * 100, [33] * 30, [1])  # sequences of 4 shards
NUM_ROWS = sum(map(sum, SHARDS))


class Recorder(ActivationReader):
    """Notes what it was told to expect and what was read."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact, HOOK, "train")
        self.expected: list[Ranges] = []
        self.asked: list[Ranges] = []

    def expect(self, ranges: Ranges) -> None:
        self.expected.append(ranges)

    def read(self, ranges: Ranges, into: tuple[Tensor, ...], slots_N: Tensor) -> None:
        self.asked.append(ranges)
        super().read(ranges, into, slots_N)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return ActivationReader(publish_rows(store, SHARDS), HOOK, "train")


def epochs(batches: ShuffledBatches, number: int) -> Iterator[list[list[int]]]:
    """Row numbers of the batches of each of the next epochs."""
    for _ in range(number):
        epoch: list[list[int]] = []
        while sum(map(len, epoch)) < NUM_ROWS:
            epoch.append(row_numbers(batches.next_batch()))
        yield epoch


@pytest.mark.parametrize(
    ("batch_rows", "buffer_rows"), [(64, 512), (1, 10), (100, 1), (64, NUM_ROWS), (64, 10 * NUM_ROWS), (5000, 5000)]
)
def test_every_epoch_serves_every_row_once(reader: ActivationReader, batch_rows: int, buffer_rows: int) -> None:
    batches = ShuffledBatches(reader, batch_rows, buffer_rows, seed=0)
    for number, epoch in enumerate(epochs(batches, 3)):
        assert batches.epoch == number
        assert Counter(row for batch in epoch for row in batch) == Counter(range(NUM_ROWS))
        assert {len(batch) for batch in epoch[:-1]} <= {batch_rows}
        assert 0 < len(epoch[-1]) <= batch_rows


def test_a_batch_is_a_copy_in_the_stored_format(reader: ActivationReader) -> None:
    batches = ShuffledBatches(reader, 64, 512, seed=0)
    seen = 0
    while batches.epoch < 2:
        batch_BD = batches.next_batch()
        row_numbers(batch_BD)  # which fails if a former batch was zeroed in the buffer or in the file
        assert batch_BD.dtype == torch.float16
        batch_BD.zero_()
        seen += len(batch_BD)
    assert seen > 2 * NUM_ROWS


def test_another_epoch_and_another_seed_have_another_order(reader: ActivationReader) -> None:
    first, second = epochs(ShuffledBatches(reader, 64, 512, seed=0), 2)
    (other,) = epochs(ShuffledBatches(reader, 64, 512, seed=1), 1)
    (same,) = epochs(ShuffledBatches(reader, 64, 512, seed=0), 1)
    assert first == same
    assert first[0] != second[0]
    assert first[0] != other[0]


@pytest.mark.parametrize("buffer_rows", [256, 1024])
def test_batches_come_from_all_over_the_corpus_though_the_buffer_holds_a_part(
    reader: ActivationReader, buffer_rows: int
) -> None:
    (epoch,) = epochs(ShuffledBatches(reader, 64, buffer_rows, seed=0), 1)
    early = epoch[: len(epoch) // 2]
    for batch in early:
        tenths = Counter(10 * row // NUM_ROWS for row in batch)
        assert len(tenths) >= 9
        assert max(tenths.values()) <= 0.4 * len(batch)
    means = torch.tensor([float(torch.tensor(batch).float().mean()) for batch in early])
    independent = NUM_ROWS / 12**0.5 / 64**0.5  # of the mean of 64 rows drawn independently
    assert float(means.std()) < 2 * independent


def test_neighbours_in_a_batch_are_not_neighbours_in_the_corpus(reader: ActivationReader) -> None:
    (epoch,) = epochs(ShuffledBatches(reader, 64, 1024, seed=0), 1)
    rows = torch.tensor([row for batch in epoch for row in batch])
    near = (rows.diff().abs() <= 8).float().mean()
    assert float(near) < 0.05


def test_rows_that_were_read_together_leave_the_buffer_far_apart(reader: ActivationReader) -> None:
    batch_rows, buffer_rows = 64, 512
    batches = ShuffledBatches(reader, batch_rows, buffer_rows, seed=0)
    (epoch,) = epochs(batches, 1)
    place = {row: number for number, batch in enumerate(epoch) for row in batch}
    bounds = batches._bounds_R.tolist()
    runs = [(first, end) for first, end in pairwise(bounds) if end - first > 1]
    assert len(runs) > buffer_rows
    apart = [abs(place[first] - place[end - 1]) for first, end in runs]
    assert max(apart) > 2 * buffer_rows / batch_rows  # more than two whole buffers were served in between


@pytest.mark.parametrize("buffer_rows", [200, 1000, 4 * NUM_ROWS])
def test_a_stream_goes_on_exactly_where_its_state_was_taken_at_every_batch(
    reader: ActivationReader, buffer_rows: int
) -> None:
    batches = ShuffledBatches(reader, 97, buffer_rows, seed=3)
    stream: list[Tensor] = []
    states = []
    while batches.epoch < 2:
        states.append(batches.state_dict())
        stream.append(batches.next_batch())
    for taken, state in enumerate(states):
        resumed = ShuffledBatches(reader, 97, buffer_rows, seed=99)
        resumed.load_state_dict(state)
        for expected in stream[taken : taken + 5]:
            assert torch.equal(resumed.next_batch(), expected)
    resumed = ShuffledBatches(reader, 97, buffer_rows, seed=99)
    resumed.load_state_dict(states[3])
    assert all(torch.equal(resumed.next_batch(), expected) for expected in stream[3:])


@pytest.mark.parametrize("buffer_rows", [200, 1000, 4 * NUM_ROWS])
def test_all_that_is_read_was_announced_but_for_the_first_filling(reader: ActivationReader, buffer_rows: int) -> None:
    recorder = Recorder(reader.artifact)
    batches = ShuffledBatches(recorder, 97, buffer_rows, seed=3)
    while batches.epoch < 3:
        batches.next_batch()
    # One more was announced while the last that was read is served.
    assert len(recorder.asked) > 3
    assert recorder.expected[: len(recorder.asked) - 1] == recorder.asked[1:]
    assert len(recorder.expected) - len(recorder.asked) in (-1, 0)


@pytest.mark.parametrize("taken", [0, 1, 9, 20])
def test_a_resumed_stream_repeats_reads_and_announces_what_comes_next(reader: ActivationReader, taken: int) -> None:
    # A model at work gives a row to the last bit only if it is read with the same others.
    whole, resumed = Recorder(reader.artifact), Recorder(reader.artifact)
    batches = ShuffledBatches(whole, 97, 600, seed=3)
    for _ in range(taken):
        batches.next_batch()
    state, before = batches.state_dict(), len(whole.asked)
    again = ShuffledBatches(resumed, 97, 600, seed=9)
    again.load_state_dict(state)
    assert resumed.asked == whole.asked[max(before - len(resumed.asked), 0) : before][::-1]
    assert bool(resumed.asked) == bool(taken)
    assert resumed.expected == (whole.expected[-1:] if len(state["order"]) else [])


@pytest.mark.parametrize("lengths", [[40] * 100, [7] * 200, [33, 1, 80, 12] * 60])
def test_runs_end_with_a_sequence_and_are_of_like_length(store: Store, lengths: list[int]) -> None:
    reader = ActivationReader(publish_rows(store, [lengths]), HOOK, "train")
    batches = ShuffledBatches(reader, 1, 64 * max(lengths), seed=0)
    bounds = batches._bounds_R
    assert (bounds[0], bounds[-1]) == (0, sum(lengths))
    assert set(bounds.tolist()) - {0} <= set(np.cumsum(lengths).tolist())
    run = batches.capacity // 256
    assert np.diff(bounds).max() < run + max(lengths)
    assert len(bounds) - 1 >= min(len(lengths), sum(lengths) // (run + max(lengths)))


def test_sequences_of_which_few_would_fit_are_cut(store: Store) -> None:
    batches = ShuffledBatches(ActivationReader(publish_rows(store, [[3000, 5, 900]]), HOOK, "train"), 1, 640, seed=0)
    bounds = batches._bounds_R.tolist()
    assert {3000, 3005, 3905} <= set(bounds)
    assert max(np.diff(bounds)) <= 640 // 64 + 640 // 256


def test_a_state_does_not_change_when_the_stream_goes_on(reader: ActivationReader) -> None:
    batches = ShuffledBatches(reader, 64, 512, seed=0)
    state = batches.state_dict()
    before = {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
    list(epochs(batches, 2))
    batches.load_state_dict(state)
    list(epochs(batches, 1))
    for name, value in before.items():
        assert torch.equal(state[name], value) if isinstance(value, Tensor) else state[name] == value


def test_a_state_holds_no_activations(reader: ActivationReader) -> None:
    batches = ShuffledBatches(reader, 64, 512, seed=0)
    assert {value.dtype for value in batches.state_dict().values() if isinstance(value, Tensor)} == {
        torch.int64,
        torch.uint8,
    }


def test_a_sample_comes_from_all_over_the_corpus_and_moves_nothing(reader: ActivationReader) -> None:
    batches = ShuffledBatches(reader, 64, 512, seed=0)
    rows = row_numbers(batches.sample(400))
    assert len(rows) == 400
    assert Counter(10 * row // NUM_ROWS for row in rows).keys() == set(range(10))
    assert rows == row_numbers(ShuffledBatches(reader, 1, 10, seed=5).sample(400))
    assert row_numbers(batches.sample(1)) == list(range(16))
    assert len(batches.sample(10 * NUM_ROWS)) == NUM_ROWS // 16 * 16
    assert torch.equal(batches.next_batch(), ShuffledBatches(reader, 64, 512, seed=0).next_batch())


def test_a_stream_tells_what_it_serves(reader: ActivationReader) -> None:
    stream: ActivationStream[Tensor] = ShuffledBatches(reader, 64, 512, seed=0)
    assert (len(stream), stream.width, stream.target_width, stream.dtype) == (NUM_ROWS, 3, 3, "float16")


def test_the_buffer_never_grows(store: Store) -> None:
    reader = ActivationReader(publish_rows(store, [[500] * 20]), HOOK, "train")
    batches = ShuffledBatches(reader, 32, 400, seed=0)
    ring = batches._rings_ND[0]
    assert (batches.capacity, ring.shape) == (400, (400, 3))
    storage = ring.data_ptr()
    tracemalloc.start()
    for _ in range(100):
        assert len(batches.next_batch()) == 32
        assert batches._rings_ND[0].data_ptr() == storage
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
