"""Shuffled batches: every row once an epoch, from all over the corpus, resumable at any batch, in bounded memory."""

import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader, ActivationStream, ShuffledBatches
from mistudio.artifacts import Store, open_store
from tests.unit.activations.conftest import HOOK, publish_rows, row_numbers

SHARDS = ([40] * 25, [7] * 100, [33] * 30, [1])  # sequences of 4 shards
NUM_ROWS = sum(map(sum, SHARDS))


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
    apart = [abs(place[row] - place[row + 1]) for row in range(0, NUM_ROWS - 1, batches._run_rows)]
    assert batches._run_rows == 2
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
