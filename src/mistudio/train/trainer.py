"""The training loop: one stream of activations, and one or several autoencoders that learn from it.

Reading activations costs more than learning from them, all the more where they come live from a model. So every
batch goes to each autoencoder. None of them can tell: each ends with the same bytes as if it were trained alone.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mistudio.activations import LiveReader, RowSource, ShuffledBatches
from mistudio.heap import release_freed_memory
from mistudio.sae import ALONE, Parallel, Workers
from mistudio.train.config import TrainConfig, check_stream
from mistudio.train.learner import Learner, Metrics
from mistudio.train.scaling import Rows, as_float32, as_pair
from mistudio.train.whole import of_first

State = tuple[dict[str, Tensor], dict[str, str]]  # tensors and text of one safetensors file


class Trainer:
    """Autoencoders in training over one stream.

    Args:
        configs: what to train; all have to agree on the stream.
        rows: the activations.
        seed: of initialisation and order.
        device: where to train.
        workers: the processes that train them, each over the whole stream.
        parallel: what they share: the tokens of each batch, or the latents.

    Raises:
        ConfigError: the settings of the stream differ, or the latents cannot be shared by so many.
    """

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        rows: RowSource[Rows],
        seed: int,
        device: torch.device,
        workers: Workers = ALONE,
        parallel: Parallel = "data",
    ) -> None:
        check_stream(configs)
        first = configs[0]
        self.step, self.tokens = 0, 0
        self.device, self.workers = device, workers
        self._is_live = isinstance(rows, LiveReader)
        self.stream = ShuffledBatches(rows, first.batch_size, first.buffer_rows, seed)
        self.learners = [Learner(config, self.stream, seed, device, workers, parallel) for config in configs]
        release_freed_memory()  # of the samples that they began with

    @property
    def finished(self) -> bool:
        """Whether every autoencoder is done."""
        return all(learner.finished for learner in self.learners)

    def train_step(self) -> dict[int, Metrics]:
        """Give the next batch to all that still learn; the metrics of those that report, by number."""
        rows = as_float32(self.stream.next_batch(), self.device)
        if self._is_live:
            rows = of_first(rows, self.workers)
        reports = {}
        for number, learner in enumerate(self.learners):
            # One that was resumed from a later step than the others waits for them.
            if learner.step == self.step and not learner.finished and (metrics := learner.learn(rows)):
                reports[number] = metrics
        self.step += 1
        self.tokens += len(as_pair(rows)[0])
        return reports

    def state_dict(self, number: int) -> State:
        """All that one autoencoder goes on from, the stream included: what one safetensors file holds."""
        tensors, scalars = self.learners[number].state_dict()
        stream = self.stream.state_dict()
        tensors |= {f"stream.{name}": value for name, value in stream.items() if isinstance(value, Tensor)}
        scalars["stream"] = {name: value for name, value in stream.items() if not isinstance(value, Tensor)}
        scalars["trainer"] = {"step": self.step, "tokens": self.tokens}
        return {name: value.contiguous() for name, value in tensors.items()}, {"state": json.dumps(scalars)}

    def load_state_dicts(self, states: Sequence[State | None]) -> None:
        """Go on exactly where :meth:`state_dict` was taken; the stream, where the one least far on was.

        Args:
            states: one an autoencoder; None starts it anew, and the stream with it.
        """
        least: tuple[int, dict[str, Any]] | None = None  # step and stream of the one least far on
        for learner, state in zip(self.learners, states, strict=True):
            stream = _load(learner, state) if state else {}
            if not learner.finished and (least is None or learner.step < least[0]):
                least = learner.step, stream
        if least and least[1]:
            position = least[1].pop("trainer")
            self.step, self.tokens = position["step"], position["tokens"]
            self.stream.load_state_dict(least[1])


def _load(learner: Learner, state: State) -> dict[str, Any]:
    """Restore one autoencoder; the state of its stream."""
    tensors, text = state
    scalars = json.loads(text["state"])
    of_stream = {name.removeprefix("stream."): value for name, value in tensors.items() if name.startswith("stream.")}
    learner.load_state_dict({name: tensors[name] for name in tensors if not name.startswith("stream.")}, scalars)
    return {**of_stream, **scalars["stream"], "trainer": scalars["trainer"]}
