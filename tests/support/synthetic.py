"""Activations made of planted sparse features, published as the capture step would publish them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mistudio.activations import ActivationReader, ShuffledBatches
from mistudio.activations.shards import ShardWriter
from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, produce
from mistudio.train import Learner, Metrics, TrainConfig
from tests.support.indexed import index_shards

HOOK = "resid_post.1"


class Planted(NamedTuple):
    """Rows that are sums of a few of some directions, away from the origin."""

    acts_ND: Tensor
    directions_PD: Tensor  # of unit length


def plant(num_tokens: int, *, width: int = 24, planted: int = 32, active: int = 3, seed: int = 0) -> Planted:
    """Each token has ``active`` of the planted directions, with strengths between 0.5 and 1.5.

    Rows of another seed have the same directions.
    """
    directions = torch.Generator().manual_seed(99)
    directions_PD = torch.nn.functional.normalize(torch.randn(planted, width, generator=directions), dim=1)
    origin_D = torch.randn(width, generator=directions)
    generator = torch.Generator().manual_seed(seed)
    chosen_NK = torch.rand(num_tokens, planted, generator=generator).argsort(dim=1)[:, :active]
    strength_NK = 0.5 + torch.rand(num_tokens, active, generator=generator)
    strength_NP = torch.zeros(num_tokens, planted).scatter(1, chosen_NK, strength_NK)
    return Planted(strength_NP @ directions_PD + origin_D, directions_PD)


def publish_activations(
    store: Store,
    train_ND: Tensor,
    heldout_ND: Tensor | None = None,
    *,
    hook: str = HOOK,
    shards: int = 1,
    inputs: dict[str, InputRef] | None = None,
) -> Artifact:
    """Publish rows as sequences of 8 tokens, two sequences a document."""
    splits = {"train": train_ND} if heldout_ND is None else {"train": train_ND, "heldout": heldout_ND}

    def build(draft: Draft) -> Summary:
        for split, acts_ND in splits.items():
            rows = np.arange(len(acts_ND))
            meta = {"document": rows // 16, "sequence": rows // 8, "position": rows % 16, "token_id": rows % 50}
            bounds = np.linspace(0, -(-len(rows) // 8), shards + 1).astype(int) * 8
            for number, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
                with (
                    draft.stage(f"{hook}/{split}/shard-{number:05d}.arrow") as path,
                    ShardWriter(path, acts_ND.shape[1], "float16") as writer,
                ):
                    columns = {name: column[start:stop].astype(np.int32) for name, column in meta.items()}
                    writer.append(acts_ND[start:stop], columns)
        index_shards(draft)
        return {"hooks": hook, f"width.{hook}": train_ND.shape[1]}

    content = {"sum": float(train_ND.double().sum()), "shards": shards, "hook": hook}
    return produce(store, Recipe(kind="activations", config=content, inputs=inputs or {}), "capture", build).artifact


def publish_pair(store: Store, input_ND: Tensor, target_NE: Tensor, *, shift: int = 0) -> Artifact:
    """Publish ``mlp_in.1`` and ``mlp_out.1`` of one capture; ``shift`` moves the second's positions."""

    def build(draft: Draft) -> Summary:
        for hook, acts_ND, moved in (("mlp_in.1", input_ND, 0), ("mlp_out.1", target_NE, shift)):
            rows = np.arange(len(acts_ND), dtype=np.int32)
            meta = {"document": rows // 16, "sequence": rows // 8, "position": rows % 16 + moved, "token_id": rows % 50}
            with (
                draft.stage(f"{hook}/train/shard-00000.arrow") as path,
                ShardWriter(path, acts_ND.shape[1], "float16") as writer,
            ):
                writer.append(acts_ND, {name: column.astype(np.int32) for name, column in meta.items()})
        index_shards(draft)
        return {}

    content = {"sum": float(input_ND.double().sum()), "shift": shift}
    return produce(store, Recipe(kind="activations", config=content), "capture", build).artifact


class Alone(Learner):
    """A learner with a stream of its own, for tests that look into it between steps."""

    def __init__(self, config: TrainConfig, reader: ActivationReader) -> None:
        self.stream = ShuffledBatches(reader, config.batch_size, config.buffer_rows, seed=0)
        super().__init__(config, self.stream, 0, torch.device("cpu"))

    def train_step(self) -> Metrics | None:
        return self.learn(self.stream.next_batch().float())


def run(trainer: Alone) -> Alone:
    """Train to the end."""
    while not trainer.finished:
        trainer.train_step()
    return trainer
