"""Pairs of activations: rows of two hook points stay together, however they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.activations import ActivationReader, CaptureConfig, Pair, PairedReader, ShuffledBatches, capture
from mistudio.activations.shards import META_COLUMNS, ShardWriter
from mistudio.artifacts import Artifact, Draft, Recipe, Store, Summary, open_store, produce
from mistudio.errors import InputError
from mistudio.subject import SubjectConfig
from tests.support.indexed import index_shards
from tests.support.tiny import MLP_WIDTH, WIDTH, tiny_corpus, tiny_llama

INPUT, TARGET = "resid_mid.1", "mlp_out.1"
ROWS = 700
Meta = dict[str, np.ndarray]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def meta_of(rows: int) -> Meta:
    numbers = np.arange(rows, dtype=np.int32)
    return {"document": numbers // 50, "sequence": numbers // 10, "position": numbers % 10, "token_id": numbers * 0}


def publish_pairs(store: Store, target_meta: Meta, target_rows: int = ROWS, dtype: str = "float16") -> Artifact:
    """Two hook points: the input spells the row's number, the target the same number doubled, in a wider row."""
    numbers = torch.arange(ROWS, dtype=torch.float32)
    parts = {
        INPUT: (torch.stack([numbers, torch.ones(ROWS)], dim=1), meta_of(ROWS)),
        TARGET: (torch.stack([numbers * 2] * 3, dim=1)[:target_rows], target_meta),
    }

    def build(draft: Draft) -> Summary:
        for hook, (acts_ND, meta) in parts.items():
            cuts = [(0, 301), (301, len(acts_ND))]
            for number, (start, stop) in enumerate(cuts):
                with (
                    draft.stage(f"{hook}/train/shard-{number:05d}.arrow") as path,
                    ShardWriter(path, acts_ND.shape[1], dtype) as writer,
                ):
                    writer.append(acts_ND[start:stop], {name: meta[name][start:stop] for name in META_COLUMNS})
        index_shards(draft)
        return {}

    return produce(store, Recipe(kind="activations", config={"dtype": dtype}), "test", build).artifact


def assert_paired(rows: Pair) -> list[int]:
    x_ND, y_NE = (part.float() for part in rows)
    assert (x_ND.shape[1], y_NE.shape[1]) == (2, 3)
    assert torch.equal(y_NE, 2 * x_ND[:, :1].expand(-1, 3))
    return x_ND[:, 0].long().tolist()


def test_a_reader_of_pairs_holds_both_rows_of_each_token(store: Store) -> None:
    reader = PairedReader(publish_pairs(store, meta_of(ROWS)), INPUT, TARGET, "train")
    assert (len(reader), reader.width, reader.target_width, reader.dtype) == (ROWS, 2, 3, "float16")
    assert assert_paired(reader.acts(290, 320)) == list(range(290, 320))
    assert np.array_equal(reader.meta(290, 320)["position"], meta_of(ROWS)["position"][290:320])
    assert [chunk for shard in (0, 1) for chunk in reader.chunks(shard, 10_000)] == [(0, 301), (301, ROWS)]


def test_shuffled_pairs_stay_together_and_go_on_where_their_state_was_taken(store: Store) -> None:
    reader = PairedReader(publish_pairs(store, meta_of(ROWS)), INPUT, TARGET, "train")
    batches = ShuffledBatches(reader, 32, 128, seed=0)
    served: list[int] = []
    for _ in range(5):
        served += assert_paired(batches.next_batch())
    state = batches.state_dict()
    rest = [batches.next_batch() for _ in range(20)]
    resumed = ShuffledBatches(reader, 32, 128, seed=9)
    resumed.load_state_dict(state)
    for expected in rest:
        for part, expected_part in zip(resumed.next_batch(), expected, strict=True):
            assert torch.equal(part, expected_part)
    for batch in rest[:-3]:
        served += assert_paired(batch)
    assert served != sorted(served)
    assert len(set(served[:ROWS])) == ROWS


def test_a_sample_is_of_pairs(store: Store) -> None:
    reader = PairedReader(publish_pairs(store, meta_of(ROWS)), INPUT, TARGET, "train")
    rows = assert_paired(ShuffledBatches(reader, 32, 128, seed=0).sample(160))
    assert rows == ActivationReader(reader.artifact, INPUT, "train").acts(0, ROWS)[rows, 0].long().tolist()
    assert len(set(rows)) == 160


def test_pairs_are_shuffled_as_their_input_alone_would_be(store: Store) -> None:
    artifact = publish_pairs(store, meta_of(ROWS))
    pairs = ShuffledBatches(PairedReader(artifact, INPUT, TARGET, "train"), 32, 128, seed=4)
    alone = ShuffledBatches(ActivationReader(artifact, INPUT, "train"), 32, 128, seed=4)
    for _ in range(40):
        assert torch.equal(pairs.next_batch()[0], alone.next_batch())


@pytest.mark.parametrize("column", ["document", "sequence", "position"])
def test_rows_of_other_places_are_refused_with_the_first_that_differs(store: Store, column: str) -> None:
    meta = meta_of(ROWS)
    meta[column][650:] += 7
    artifact = publish_pairs(store, meta)
    was, now = int(meta_of(ROWS)[column][650]), int(meta[column][650])
    with pytest.raises(InputError, match=rf"do not correspond: row 650 belongs to {column} {was} and {now}\. Capture"):
        PairedReader(artifact, INPUT, TARGET, "train").acts(640, 660)


def test_another_number_of_rows_is_refused(store: Store) -> None:
    artifact = publish_pairs(store, meta_of(ROWS), target_rows=699)
    with pytest.raises(InputError, match=r"resid_mid\.1 has 700 rows and mlp_out\.1 699"):
        PairedReader(artifact, INPUT, TARGET, "train")


def test_a_hook_point_that_was_not_captured_is_named(store: Store) -> None:
    artifact = publish_pairs(store, meta_of(ROWS))
    with pytest.raises(InputError, match=r"has no activations of mlp_out\.2"):
        PairedReader(artifact, INPUT, "mlp_out.2", "train")


def test_one_capture_of_two_hook_points_of_other_widths_makes_pairs(store: Store, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "model")
    corpus = tiny_corpus(store, source, tmp_path / "text", num_documents=30)
    config = CaptureConfig(hooks=("resid_post.0", "mlp_act.1"), shard_bytes=1 << 16, batch_size=4)
    artifact = capture(store, corpus, source, SubjectConfig(device="cpu"), config).artifact
    reader = PairedReader(artifact, "resid_post.0", "mlp_act.1", "train")
    assert len(reader.input.shards) > 1
    x_ND, y_NE = reader.acts(0, len(reader))
    assert (x_ND.shape[1], y_NE.shape[1]) == (WIDTH, MLP_WIDTH)
    assert torch.equal(y_NE, ActivationReader(artifact, "mlp_act.1", "train").acts(0, len(reader)))
