"""Batches of rows drawn at random from all over a corpus, through a bounded buffer.

Shape legend: N rows, D width of a hook point, B rows of a batch.
"""

from typing import Any, Generic

import torch
from torch import Tensor

from mistudio.activations.stream import RowSource, RowsT

# Rows read at once into the shuffling buffer: long enough for sequential reads, short enough that a full
# buffer holds rows from at least so many places.
_RUN_ROWS = 512
_PLACES = 256
_SAMPLE_RUN_ROWS = 16  # a sample is of short runs, because a read has a price of its own


class ShuffledBatches(Generic[RowsT]):
    """An endless stream of batches of rows drawn from all over a corpus; every epoch serves each row once.

    A ring of ``buffer_rows`` preallocated slots is filled with short runs of rows taken from the whole
    corpus in random order. Each batch is drawn at random from the slots, which are then refilled from the
    next runs. The state to resume from is small: the ids of the rows in the slots, not the rows. Of a
    reader of pairs, a batch is a pair of tensors whose rows correspond.
    """

    def __init__(self, reader: RowSource[RowsT], batch_rows: int, buffer_rows: int, seed: int) -> None:
        self._reader = reader
        self._batch_rows = batch_rows
        self.capacity = min(max(buffer_rows, 2 * batch_rows), len(reader))
        self._run_rows = min(_RUN_ROWS, max(self.capacity // _PLACES, 1))
        self._rings_ND = [
            torch.empty(self.capacity, part.width, dtype=part.acts(0, 1).dtype) for part in reader.readers
        ]
        self._ids_N = torch.full((self.capacity,), -1, dtype=torch.int64)
        self._generator = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self._runs = torch.empty(0, dtype=torch.int64)
        self._next_run, self._run_offset = 0, 0
        self._live = 0
        self._order_N = torch.empty(0, dtype=torch.int64)
        self._start_epoch()
        self._fill(torch.arange(self.capacity))

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def width(self) -> int:
        """Width of the activations."""
        return self._reader.width

    @property
    def target_width(self) -> int:
        """Width of what is to be predicted from them."""
        return self._reader.target_width

    @property
    def dtype(self) -> str:
        """Number format of the rows."""
        return self._reader.dtype

    def sample(self, num_rows: int) -> RowsT:
        """About ``num_rows`` rows from all over the corpus; which ones depends on nothing else."""
        run = min(_SAMPLE_RUN_ROWS, len(self))
        places = max(min(num_rows, len(self)) // run, 1)
        starts = [place * len(self) // places for place in range(places)]
        parts = [ring_ND.new_empty(places * run, ring_ND.shape[1]) for ring_ND in self._rings_ND]
        for rows_ND, part in zip(parts, self._reader.readers, strict=True):
            for place, start in enumerate(starts):
                rows_ND[place * run : (place + 1) * run] = part.acts(start, start + run)
        return self._reader.pack(tuple(parts))

    def next_batch(self) -> RowsT:
        """The next rows [B, D] in the stored number format; the last batch of an epoch may be smaller."""
        if not self._live:
            self.epoch += 1
            self._start_epoch()
            self._fill(torch.arange(self.capacity))
        if not len(self._order_N):
            self._shuffle()
        slots, self._order_N = self._order_N[: self._batch_rows], self._order_N[self._batch_rows :]
        parts = tuple(ring_ND.index_select(0, slots) for ring_ND in self._rings_ND)
        self._ids_N[slots] = -1
        self._live -= len(slots)
        if not len(self._order_N):
            self._fill(torch.nonzero(self._ids_N < 0).squeeze(1))
        return self._reader.pack(parts)

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
                self._read(first, first + stop - start, slots[start:stop])

    def _read(self, first: int, end: int, slots: Tensor) -> None:
        """Copy the rows ``first`` to ``end`` into slots."""
        for ring_ND, part in zip(self._rings_ND, self._reader.readers, strict=True):
            ring_ND.index_copy_(0, slots, part.acts(first, end))

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
            self._read(first, first + count, target)
            self._ids_N[target] = torch.arange(first, first + count)
            self._live += count
            done += count
            self._run_offset += count
            if first + count == end:
                self._next_run, self._run_offset = self._next_run + 1, 0
        self._order_N = torch.empty(0, dtype=torch.int64)
