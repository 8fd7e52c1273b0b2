"""The one pass over the training activations, whole or in parts, with a checkpoint after each shard.

Everything that a pass holds adds up: parts of the activations that were searched elsewhere give, put together,
the same bytes as one pass over all. Parts are runs of chunks, and chunks never cut a sequence.

Shape legend: N rows of a chunk, D model width, F features.
"""

from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mistudio.activations import OrderedRows, Prefetched
from mistudio.artifacts import Draft
from mistudio.corpus.reader import TokenCorpus
from mistudio.find.config import PassConfig
from mistudio.find.contexts import ChunkRows, PrioritySample, TopContexts
from mistudio.find.sample import SampleKeeper
from mistudio.find.statistics import FeatureStatistics
from mistudio.progress import progress
from mistudio.sae import ActiveLatents, SparseAutoencoder

STATE_NAME = "state.safetensors"
MAX_TASKS = 64
OTHER_TASKS = "other"
POSITION_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # the last class is open
_CHECKPOINT = "shards-"
# Of the pool that sampled contexts are chosen from at the end, when the quantiles are known.
POOL = 2


class Chunk(NamedTuple):
    """Rows from the first to before the last, all of one shard."""

    shard: int
    start: int
    stop: int


class _Holder(Protocol):
    def merge(self, state: dict[str, Tensor]) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Search:
    """What a pass holds of every feature.

    Args:
        num_features: F.
        activation_std: of the activations that the autoencoder reads.
        num_rows: rows of all parts together.
        corpus: where they come from.
        config: what to keep.
        seed: of what is drawn by lot.
    """

    def __init__(
        self,
        num_features: int,
        activation_std: float,
        num_rows: int,
        corpus: TokenCorpus,
        config: PassConfig,
        seed: int,
    ) -> None:
        self.config, self.corpus, self.tasks = config, corpus, shown_tasks(corpus)
        self._task_number = {task: number for number, task in enumerate(self.tasks)}
        classes = {"task": len(self.tasks), "position": len(POSITION_EDGES)} if config.include_statistics else {}
        window = config.context_before, config.context_after
        self.statistics = FeatureStatistics(num_features, activation_std, classes)
        self.top = TopContexts(num_features, config.contexts, *window)
        self.pool = TopContexts(num_features, POOL * config.sampled_contexts, *window)
        self.sample = SampleKeeper(num_features, config.sample_tokens / max(num_rows, 1), seed)
        self._priority_sample = PrioritySample(num_features, seed)

    def update(
        self,
        active: ActiveLatents,
        meta: Mapping[str, NDArray[np.int32]],
        kept_N: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in the active latents of a chunk of whole sequences; tokens that are not kept are counted apart."""
        rows = ChunkRows(meta["document"], meta["sequence"], meta["position"])
        self.statistics.update(active, len(rows.document), self._classes(rows), kept_N)
        self.top.update(active, rows)
        if self.config.sampled_contexts:
            self.pool.update(active, rows, self._priority_sample.draw(active, rows))
        self.sample.update(active, rows, meta["token_id"])

    def merge(self, state: dict[str, Tensor]) -> None:
        """Take in what a search over other sequences has found, by its state."""
        for name, holder in self._holders().items():
            holder.merge(_part_of(state, name))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything held."""
        return {
            f"{name}.{key}": value
            for name, holder in self._holders().items()
            for key, value in holder.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, holder in self._holders().items():
            holder.load_state_dict(_part_of(state, name))

    @property
    def num_bytes(self) -> int:
        """Memory that is held."""
        return sum(value.nbytes for value in self.state_dict().values())

    def _holders(self) -> dict[str, _Holder]:
        return {"statistics": self.statistics, "top": self.top, "pool": self.pool, "sample": self.sample}

    def _classes(self, rows: ChunkRows) -> dict[str, NDArray[np.int64]]:
        if not self.config.include_statistics:
            return {}
        starts = np.flatnonzero(np.diff(rows.sequence, prepend=-1))
        lengths = np.diff(starts, append=len(rows.sequence))
        place_N = np.arange(len(rows.sequence)) - np.repeat(starts, lengths)
        other = len(self.tasks) - 1
        tasks = self.corpus.batch("train", rows.sequence[starts]).task.tolist()
        number = np.array([self._task_number.get(task, other) for task in tasks], dtype=np.int64)
        position_N = np.searchsorted(POSITION_EDGES, place_N, side="right") - 1
        return {"task": np.repeat(number, lengths), "position": position_N}


def shown_tasks(corpus: TokenCorpus) -> list[str]:
    """The tasks that features are counted by: all, or the largest and "other" where there are more than 64."""
    tasks = corpus.statistics.splits["train"].tasks
    if len(tasks) <= MAX_TASKS:
        return sorted(tasks)
    largest = sorted(tasks, key=lambda task: (-tasks[task].tokens, task))[: MAX_TASKS - 1]
    return [*sorted(largest), OTHER_TASKS]


def chunks_of_part(reader: OrderedRows, chunk_rows: int, part: int, num_parts: int) -> list[Chunk]:
    """The chunks of one part: neighbours, about as many in each part."""
    chunks = [
        Chunk(shard, start, stop)
        for shard in range(len(reader.shards))
        for start, stop in reader.chunks(shard, chunk_rows)
    ]
    first, stop = (len(chunks) * number // num_parts for number in (part, part + 1))
    return chunks[first:stop]


def run_search(
    search: Search,
    sae: SparseAutoencoder,
    reader: OrderedRows,
    chunks: list[Chunk],
    draft: Draft,
    device: torch.device,
) -> None:
    """Go through ``chunks``, from the last checkpoint on if a killed run has left one."""
    with progress("Find contexts", sum(chunk.stop - chunk.start for chunk in chunks), "tokens") as bar:
        done = _resume(search, draft)
        bar.advance(search.statistics.num_tokens + search.statistics.filtered_tokens)
        left = [chunk for chunk in chunks if chunk.shard >= done]

        def read(chunk: Chunk) -> tuple[ActiveLatents, Mapping[str, NDArray[np.int32]], NDArray[np.bool_] | None]:
            acts_ND = reader.acts(chunk.start, chunk.stop).to(device, torch.float32)
            kept_N = None if sae.norm_limit is None else sae.norm_limit.keeps(acts_ND).cpu().numpy()
            return sae.encode_active(acts_ND), reader.meta(chunk.start, chunk.stop), kept_N

        with closing(Prefetched(read, left, ahead=1)) as made:
            for number, (chunk, found) in enumerate(zip(left, made, strict=True)):
                search.update(*found)
                bar.advance(chunk.stop - chunk.start)
                if number + 1 == len(left) or left[number + 1].shard > chunk.shard:
                    _save(search, draft, chunk.shard + 1)


def save_state(search: Search, draft: Draft) -> None:
    """Write everything held as a file of an artifact."""
    with draft.stage(STATE_NAME) as path:
        save_file(search.state_dict(), path)


def _save(search: Search, draft: Draft, done: int) -> None:
    name = f"{_CHECKPOINT}{done:05d}.safetensors"
    with draft.stage_work(name) as path:
        save_file(search.state_dict(), path)
    for other in _checkpoints(draft):
        if other != name:
            draft.remove_work(other)


def _resume(search: Search, draft: Draft) -> int:
    """Load the last checkpoint; return the number of shards that are done."""
    names = _checkpoints(draft)
    if not names:
        return 0
    search.load_state_dict(load_file(draft.work_file(names[-1])))
    return int(names[-1].removeprefix(_CHECKPOINT).removesuffix(".safetensors"))


def _checkpoints(draft: Draft) -> list[str]:
    return sorted(name for name in draft.work_names() if name.startswith(_CHECKPOINT))


def _part_of(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
