"""A store, and activations with known rows to publish in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mistudio.activations.shards import META_COLUMNS, ShardWriter
from mistudio.artifacts import Artifact, Draft, Recipe, Store, Summary, open_store, produce
from tests.support.indexed import index_shards

WIDTH = 3
HOOK = "resid_post.1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def numbered_rows(start: int, stop: int) -> Tensor:
    """Rows [N, 3] that spell their own number in digits that float16 holds exactly."""
    ids_N = torch.arange(start, stop)
    return torch.stack([ids_N % 1000, ids_N // 1000, torch.ones_like(ids_N)], dim=1).to(torch.float16)


def row_numbers(acts_ND: Tensor) -> list[int]:
    """Which rows these are."""
    assert (acts_ND[:, 2] == 1).all()
    return (acts_ND[:, 0].long() + 1000 * acts_ND[:, 1].long()).tolist()


def publish_rows(store: Store, shards: Sequence[Sequence[int]], split: str = "train") -> Artifact:
    """Publish shards of numbered rows; each is given as the lengths of its sequences."""

    def build(draft: Draft) -> Summary:
        sequence = row = 0
        for number, lengths in enumerate(shards):
            with (
                draft.stage(f"{HOOK}/{split}/shard-{number:05d}.arrow") as path,
                ShardWriter(path, WIDTH, "float16") as writer,
            ):
                for length in lengths:
                    meta = {name: np.full(length, 10 * sequence, np.int32) for name in META_COLUMNS}
                    meta["sequence"][:] = sequence
                    meta["position"] = np.arange(length, dtype=np.int32)
                    writer.append(numbered_rows(row, row + length), meta)
                    sequence, row = sequence + 1, row + length
        index_shards(draft)
        return {}

    config = {"shards": [list(lengths) for lengths in shards], "split": split}
    return produce(store, Recipe(kind="activations", config=config), "test", build).artifact
