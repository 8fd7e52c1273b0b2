"""What the processes of a training do in the tests; alone it does the same."""

import os
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader, LiveReader, ShuffledBatches
from mistudio.activations.stream import Ranges
from mistudio.artifacts import open_artifact, open_store
from mistudio.sae import NormLimit, Parallel, SAETraining, start_workers
from mistudio.sae.topk import TopKTraining
from mistudio.train import Learner, Metrics, TrainConfig, TrainRuntime, train
from mistudio.train.config import TRAINING_NAME
from tests.support.synthetic import HOOK

_MOST_TOKENS = 12


class Learned(NamedTuple):
    """How a training went."""

    reports: list[Metrics]
    state: dict[str, Tensor]
    published: dict[str, Tensor]


def learn(folder: str, uri: str, config: TrainConfig, parallel: Parallel, steps: int) -> Learned:
    """Train for some steps in float64, so that what is left of a difference is no rounding."""
    workers, device = start_workers("cpu")
    reader = ActivationReader(open_artifact(open_store(folder), uri), HOOK, "train")
    stream = ShuffledBatches(reader, config.batch_size, config.buffer_rows, 0)
    learner = Learner(config, stream, 0, device, workers, parallel)
    learner.training.double()
    learner.training.encoder_dtype = torch.float64
    learner._means = {name: mean.double() for name, mean in learner._means.items()}
    normalisation = learner.scaling.normalisation
    means = {"mean_D": normalisation.mean_D.double(), "target_mean_E": normalisation.target_mean_E.double()}
    learner.scaling = learner.scaling._replace(normalisation=normalisation._replace(**means))
    with workers.failing_together():
        reports = [learner.learn(stream.next_batch().double()) for _ in range(steps)]
        state = {name: value.clone() for name, value in learner.state_dict()[0].items()}
        sae = learner.finish()
    weights = {name: getattr(sae, name).detach().clone() for name in sae.weight_names()}
    return Learned([report for report in reports if report], state, weights)


class Run(NamedTuple):
    """What :func:`mistudio.train.train` returned, and whom it told."""

    uri: str
    digest: str
    found: bool
    steps: list[int]
    history: bytes


class Cut(Exception):
    """Stands for anything that ends a run in the first process."""


def publish(
    folder: str,
    uri: str,
    config: TrainConfig,
    parallel: Parallel = "data",
    cut_at: int | None = None,
    *,
    kill: bool = False,
) -> Run:
    """Train and publish; or end in the middle: with an exception, or at once."""
    steps: list[int] = []

    def on_metrics(_metrics: Metrics, step: int) -> None:
        steps.append(step)
        if step == cut_at:
            if kill:
                os._exit(1)
            raise Cut

    store = open_store(folder)
    runtime = TrainRuntime(parallel=parallel, checkpoint_every_steps=4)
    produced = train(store, open_artifact(store, uri), config, 3, runtime, on_metrics)
    artifact = produced.artifact
    return Run(artifact.uri, artifact.digest, produced.found, steps, artifact.file(TRAINING_NAME).read_bytes())


def publish_with_little_memory(folder: str, uri: str, config: TrainConfig, parallel: Parallel, *, rank: int) -> Run:
    """The same, where one process runs out of memory above so many tokens."""
    short = int(os.environ["RANK"]) == rank

    def limited(training: SAETraining, x_TD: Tensor) -> Tensor:
        if short and len(x_TD) > _MOST_TOKENS:
            torch.empty(1 << 50)
        return preactivations(training, x_TD)

    preactivations = SAETraining._preactivations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAETraining, "_preactivations", limited)
        return publish(folder, uri, config, parallel)


def publish_without_room_for_moments(folder: str, uri: str, config: TrainConfig, parallel: Parallel) -> Run:
    """The same, where the second process has no memory for what Adam keeps."""

    def limited(adam: torch.optim.Adam) -> None:
        if os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError
        step(adam)

    step = torch.optim.Adam.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", limited)
        return publish(folder, uri, config, parallel)


def publish_diverging(folder: str, uri: str, config: TrainConfig, parallel: Parallel) -> Run:
    """The same, with a weight that is no number."""

    def broken(self: SAETraining, *args: object) -> None:
        initialise(self, *args)
        self.sae.b_dec.data[0] = torch.nan

    initialise = TopKTraining.initialise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TopKTraining, "initialise", broken)
        return publish(folder, uri, config, parallel)


def among_largest(rows: list[Tensor], k: int) -> Tensor:
    """Which of this process's values are kept."""
    workers, _ = start_workers("cpu")
    return workers.among_largest(rows[workers.rank], k)


def exchange(texts: list[str]) -> tuple[dict[str, str], int]:
    """What the first process says, and a sum."""
    workers, _ = start_workers("cpu")
    return workers.of_first({"text": texts[workers.rank]}), workers.agree(workers.rank + 1)


def publish_with_rows_of_its_own(folder: str, uri: str, config: TrainConfig, parallel: Parallel) -> Run:
    """The same, where the second process computes other rows, and leaves out others of the same, as by rounding."""

    def other_rows(reader: LiveReader, ranges: Ranges, into: tuple[Tensor, ...], slots_N: Tensor) -> None:
        read(reader, ranges, into, slots_N)
        if os.environ["RANK"] == "1":
            for part_ND in into:
                part_ND *= 1.02

    def other_limit(limit: NormLimit, x_TD: Tensor) -> Tensor:
        return keeps(limit, x_TD if os.environ["RANK"] == "0" else 1.05 * x_TD)

    read, keeps = LiveReader.read, NormLimit.keeps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveReader, "read", other_rows)
        patch.setattr(NormLimit, "keeps", other_limit)
        return publish(folder, uri, config, parallel)
