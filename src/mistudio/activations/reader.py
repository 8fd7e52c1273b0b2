"""Reading captured activations: in order, or shuffled through a bounded buffer.

Shape legend: N rows, D width of the hook point, B rows of a batch.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.shards import META_COLUMNS, ShardFile, joined
from mistudio.artifacts import Artifact
from mistudio.errors import InputError
from mistudio.progress import byte_progress

# Rows read at once into the shuffling buffer: long enough for sequential reads, short enough that a full
# buffer holds rows from at least so many places.
_RUN_ROWS = 512
_PLACES = 256


class ActivationReader:
    """The rows of one hook point and one split of an ``activations`` artifact, memory-mapped.

    Raises:
        InputError: the artifact has no such hook point, or the split has no rows.
        DamagedArtifact: a shard differs from what was published.
    """

    def __init__(self, artifact: Artifact, hook: str, split: str) -> None:
        prefix = f"{hook}/{split}/"
        paths = artifact.paths(prefix)
        if not paths:
            hooks = sorted({path.split("/")[0] for path in artifact.paths()})
            message = f"{artifact.uri} has no activations of {hook} ({split}); it has {', '.join(hooks)}."
            raise InputError(message)
        self.artifact, self.hook, self.split = artifact, hook, split
        self.shards = _open_shards(artifact, paths)
        self.width = self.shards[0].width
        self.dtype = self.shards[0].dtype
        self._ends = np.cumsum([shard.num_rows for shard in self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def acts(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` [N, D] in the stored number format; not to be written to."""
        parts = [self.shards[shard].acts(a, b) for shard, a, b in self._pieces(start, stop)]
        return joined(parts, self.width, self.dtype)

    def meta(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Document, sequence, position and token id of rows ``start`` to ``stop``, each [N]."""
        pieces = list(self._pieces(start, stop))
        none = np.empty(0, dtype=np.int32)
        return {
            name: np.concatenate([none, *(self.shards[shard].meta(name, a, b) for shard, a, b in pieces)])
            for name in META_COLUMNS
        }

    def chunks(self, shard: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of about ``rows`` rows that together cover one shard and never cut a sequence."""
        start = int(self._ends[shard]) - self.shards[shard].num_rows
        stop = int(self._ends[shard])
        sequences = self.shards[shard].meta("sequence", 0, stop - start)
        cuts = np.flatnonzero(np.diff(sequences)) + 1
        done = 0
        while done < len(sequences):
            cut = int(np.searchsorted(cuts, done + rows))
            end = int(cuts[cut]) if cut < len(cuts) else len(sequences)
            yield start + done, start + end
            done = end

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The (shard, first row, last row) that make up a global range."""
        while start < stop:
            shard = int(np.searchsorted(self._ends, start, side="right"))
            first = int(self._ends[shard]) - self.shards[shard].num_rows
            end = min(stop, int(self._ends[shard]))
            yield shard, start - first, end - first
            start = end


def _open_shards(artifact: Artifact, paths: list[str]) -> list[ShardFile]:
    """Map the shards; each is hashed once per process, which takes a while where there are many."""
    sizes = {entry.path: entry.bytes for entry in artifact.manifest.files}
    shards = []
    with byte_progress(f"Check {artifact.uri}", sum(sizes[path] for path in paths)) as bar:
        for path in paths:
            shards.append(ShardFile(artifact.file(path)))
            bar.advance(sizes[path])
    return shards


class ShuffledBatches:
    """An endless stream of batches of rows drawn from all over a corpus; every epoch serves each row once.

    A ring of ``buffer_rows`` preallocated slots is filled with short runs of rows taken from the whole
    corpus in random order. Each batch is drawn at random from the slots, which are then refilled from the
    next runs. The state to resume from is small: the ids of the rows in the slots, not the rows.
    """

    def __init__(self, reader: ActivationReader, batch_rows: int, buffer_rows: int, seed: int) -> None:
        self._reader = reader
        self._batch_rows = batch_rows
        self.capacity = min(max(buffer_rows, 2 * batch_rows), len(reader))
        self._run_rows = min(_RUN_ROWS, max(self.capacity // _PLACES, 1))
        self._ring_ND = torch.empty(self.capacity, reader.width, dtype=reader.acts(0, 1).dtype)
        self._ids_N = torch.full((self.capacity,), -1, dtype=torch.int64)
        self._generator = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self._runs = torch.empty(0, dtype=torch.int64)
        self._next_run, self._run_offset = 0, 0
        self._live = 0
        self._order_N = torch.empty(0, dtype=torch.int64)
        self._start_epoch()
        self._fill(torch.arange(self.capacity))

    def next_batch(self) -> Tensor:
        """The next rows [B, D] in the stored number format; the last batch of an epoch may be smaller."""
        if not self._live:
            self.epoch += 1
            self._start_epoch()
            self._fill(torch.arange(self.capacity))
        if not len(self._order_N):
            self._shuffle()
        slots, self._order_N = self._order_N[: self._batch_rows], self._order_N[self._batch_rows :]
        batch_BD = self._ring_ND[slots]
        self._ids_N[slots] = -1
        self._live -= len(slots)
        if not len(self._order_N):
            self._fill(torch.nonzero(self._ids_N < 0).squeeze(1))
        return batch_BD

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides which rows come next."""
        return {
            "epoch": self.epoch,
            "next_run": self._next_run,
            "run_offset": self._run_offset,
            "runs": self._runs,
            "ids": self._ids_N.clone(),
            "order": self._order_N.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken: the rows in the slots are read again."""
        self.epoch = int(state["epoch"])
        self._next_run, self._run_offset = int(state["next_run"]), int(state["run_offset"])
        self._runs, self._ids_N, self._order_N = state["runs"], state["ids"].clone(), state["order"].clone()
        self._generator.set_state(state["generator"])
        slots = torch.nonzero(self._ids_N >= 0).squeeze(1)
        self._live = len(slots)
        ids, order = self._ids_N[slots].sort()
        slots = slots[order]
        # Neighbouring ids come from one run: read them together.
        edges = torch.nonzero(torch.diff(ids) != 1).squeeze(1) + 1
        bounds = [0, *edges.tolist(), len(ids)]
        for start, stop in zip(bounds, bounds[1:], strict=False):
            if start < stop:
                first = int(ids[start])
                self._ring_ND[slots[start:stop]] = self._reader.acts(first, first + stop - start)

    def _start_epoch(self) -> None:
        num_runs = -(-len(self._reader) // self._run_rows)
        self._runs = torch.randperm(num_runs, generator=self._generator)
        self._next_run, self._run_offset = 0, 0

    def _shuffle(self) -> None:
        """Choose which live slots the next batches draw: half of them, or all once the epoch runs out."""
        live = torch.nonzero(self._ids_N >= 0).squeeze(1)
        order = live[torch.randperm(len(live), generator=self._generator)]
        more_to_come = self._next_run < len(self._runs)
        num_served = max(len(order) // 2 // self._batch_rows, 1) * self._batch_rows if more_to_come else len(order)
        self._order_N = order[:num_served]

    def _fill(self, slots: Tensor) -> None:
        """Put the next rows of the epoch into empty slots, as far as there are any left."""
        done = 0
        while done < len(slots) and self._next_run < len(self._runs):
            run_start = int(self._runs[self._next_run]) * self._run_rows
            first, end = run_start + self._run_offset, min(run_start + self._run_rows, len(self._reader))
            count = min(end - first, len(slots) - done)
            target = slots[done : done + count]
            self._ring_ND[target] = self._reader.acts(first, first + count)
            self._ids_N[target] = torch.arange(first, first + count)
            self._live += count
            done += count
            self._run_offset += count
            if first + count == end:
                self._next_run, self._run_offset = self._next_run + 1, 0
        self._order_N = torch.empty(0, dtype=torch.int64)
