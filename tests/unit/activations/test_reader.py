"""Reading activations in order: rows across shards, and chunks that never cut a sequence."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistudio.activations import ActivationReader
from mistudio.activations import reader as reader_module
from mistudio.artifacts import Store, open_store
from mistudio.errors import DamagedArtifact, InputError
from tests.unit.activations.conftest import HOOK, publish_rows, row_numbers

SHARDS = ((7, 3, 5), (30,), (1, 1, 1, 1), (12, 9))
NUM_ROWS = sum(map(sum, SHARDS))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return ActivationReader(publish_rows(store, SHARDS), HOOK, "train")


def test_a_reader_knows_what_it_holds(reader: ActivationReader) -> None:
    assert (len(reader), reader.width, reader.dtype) == (NUM_ROWS, 3, "float16")
    assert (reader.hook, reader.split) == (HOOK, "train")


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, NUM_ROWS), (10, 50), (15, 45), (44, 46), (69, 70), (20, 20)])
def test_a_range_of_rows_may_span_shards(reader: ActivationReader, start: int, stop: int) -> None:
    assert row_numbers(reader.acts(start, stop)) == list(range(start, stop))
    meta = reader.meta(start, stop)
    sequences = np.repeat(np.arange(10), [length for lengths in SHARDS for length in lengths])
    assert np.array_equal(meta["sequence"], sequences[start:stop])
    assert np.array_equal(meta["document"], 10 * sequences[start:stop])
    positions = np.concatenate([np.arange(length) for lengths in SHARDS for length in lengths])
    assert np.array_equal(meta["position"], positions[start:stop])


@given(rows=st.integers(min_value=1, max_value=80))
def test_chunks_cover_every_row_once_and_never_cut_a_sequence(reader: ActivationReader, rows: int) -> None:
    covered: list[int] = []
    sequences = reader.meta(0, len(reader))["sequence"]
    for shard in range(len(SHARDS)):
        for start, stop in reader.chunks(shard, rows):
            assert start < stop
            covered += range(start, stop)
            assert start == 0 or sequences[start - 1] != sequences[start]
            assert stop == len(reader) or sequences[stop - 1] != sequences[stop]
            assert stop - start < rows + 30  # 30: the longest sequence
    assert covered == list(range(NUM_ROWS))


def test_a_hook_point_or_split_that_was_not_captured_is_named_with_those_that_were(store: Store) -> None:
    artifact = publish_rows(store, SHARDS)
    for hook, split in (("resid_post.2", "train"), (HOOK, "heldout"), ("resid_post.11", "train")):
        with pytest.raises(InputError, match=rf"has no activations of {hook} \({split}\); it has {HOOK}\."):
            ActivationReader(artifact, hook, split)


@pytest.mark.parametrize("rows", [16, 5000])
def test_pages_that_were_read_do_not_pile_up_and_views_of_them_stay_valid(
    store: Store, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(reader_module, "_MAPPED_BYTES", 1 << 18)
    artifact = publish_rows(store, [[100_000]] * 8)
    reader = ActivationReader(artifact, HOOK, "train")
    folder = str(store.fetch(f"{artifact.uri}/manifest.json").parent)
    first = reader.acts(0, 1000)
    most = 0
    for start in range(0, len(reader), 5000):
        reader.acts(start, start + rows).sum()
        reader.meta(start, start + rows)
        if start % 50_000 == 0:  # the kernel takes its time to tell
            most = max(most, mapped_bytes(folder))
    # How much around a read the kernel maps is its own choice; without letting go everything would be mapped.
    assert most < artifact.manifest.num_bytes * 3 / 4
    assert row_numbers(first) == list(range(1000))


def mapped_bytes(folder: str) -> int:
    """Memory that mapped files of this folder take up in this process."""
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = folder in line
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return resident


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_shard_is_refused_when_it_is_read_and_others_are_not(store: Store) -> None:
    artifact = publish_rows(store, SHARDS)
    flip_a_byte(store.fetch(f"{artifact.uri}/{HOOK}/train/shard-00001.arrow"))
    reader = ActivationReader(artifact, HOOK, "train")
    assert row_numbers(reader.acts(0, 15)) == list(range(15))
    with pytest.raises(DamagedArtifact, match=r"train/shard-00001\.arrow"):
        reader.acts(14, 16)
    with pytest.raises(DamagedArtifact, match=r"train/shard-00001\.arrow"):
        reader.meta(15, 16)


def test_a_damaged_index_is_refused(store: Store) -> None:
    artifact = publish_rows(store, SHARDS)
    flip_a_byte(store.fetch(f"{artifact.uri}/{HOOK}/train/index.arrow"))
    with pytest.raises(DamagedArtifact, match=r"train/index\.arrow"):
        ActivationReader(artifact, HOOK, "train")


def test_a_shard_that_is_not_what_the_index_says_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = publish_rows(store, SHARDS)
    index = reader_module.read_index(artifact, HOOK, "train")
    monkeypatch.setattr(reader_module, "read_index", lambda *_: index._replace(shards=index.shards[::-1]))
    with pytest.raises(DamagedArtifact, match=r"shard-00000\.arrow has .* \(15, 3, 'float16'\), and its index says"):
        ActivationReader(artifact, HOOK, "train").acts(0, 1)


def test_opening_and_planning_read_no_shard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = publish_rows(store, SHARDS)
    for shard in range(len(SHARDS)):
        store.remove(f"{artifact.uri}/{HOOK}/train/shard-{shard:05d}.arrow")
    reader = ActivationReader(artifact, HOOK, "train")
    assert (len(reader), reader.width, reader.dtype, len(reader.shards)) == (NUM_ROWS, 3, "float16", len(SHARDS))
    assert reader.sequence_ends().tolist() == np.cumsum([n for lengths in SHARDS for n in lengths]).tolist()
    assert [chunk for shard in range(len(SHARDS)) for chunk in reader.chunks(shard, 10)][:2] == [(0, 10), (10, 15)]
    with pytest.raises(DamagedArtifact, match="is missing"):
        reader.acts(0, 1)
