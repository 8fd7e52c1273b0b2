"""Batches of rows drawn at random from all over a corpus, through a bounded buffer.

Shape legend: N rows, D width of a hook point, B rows of a batch, R runs.
"""

from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.stream import Ranges, RowSource, RowsT

# Rows read at once into the shuffling buffer: long enough for sequential reads, short enough that a full
# buffer holds rows from at least about so many places. Runs end where a sequence does, because a model at work
# computes whole sequences; only where sequences are so long that few would fit into the buffer are they cut.
_RUN_ROWS = 512
_PLACES = 256
_FEWEST_PLACES = 64
_SAMPLE_RUN_ROWS = 16  # a sample is of short runs, because a read has a price of its own


class ShuffledBatches(Generic[RowsT]):
    """An endless stream of batches of rows drawn from all over a corpus; every epoch serves each row once.

    A ring of ``buffer_rows`` preallocated slots is filled with short runs of rows taken from the whole
    corpus in random order. Each batch is drawn at random from the slots, of which half are served and then
    refilled from the next runs. The state to resume from is small: the ids of the rows in the slots, not the
    rows. Of pairs, a batch is a pair of tensors whose rows correspond.
    """

    def __init__(self, source: RowSource[RowsT], batch_rows: int, buffer_rows: int, seed: int) -> None:
        self._source = source
        self._batch_rows = batch_rows
        self.capacity = min(max(buffer_rows, 2 * batch_rows), len(source))
        self._refill_rows = max(self.capacity // 2 // batch_rows, 1) * batch_rows
        self._bounds_R = _run_bounds(source.sequence_ends(), self.capacity)
        self._rings_ND = self._empty(self.capacity)
        self._ids_N = torch.full((self.capacity,), -1, dtype=torch.int64)
        self._order_N = torch.empty(0, dtype=torch.int64)  # slots that the next batches draw
        self._live = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._epoch = _Epoch(0, self._bounds_R, self._generator)
        self._position = 0  # rows of the epoch that were read

    def __len__(self) -> int:
        return len(self._source)

    @property
    def epoch(self) -> int:
        """Which pass over the corpus this is, from 0."""
        return self._epoch.number

    @property
    def width(self) -> int:
        """Width of the activations."""
        return self._source.width

    @property
    def target_width(self) -> int:
        """Width of what is to be predicted from them."""
        return self._source.target_width

    @property
    def dtype(self) -> str:
        """Number format of the rows."""
        return self._source.dtype

    def sample(self, num_rows: int) -> RowsT:
        """About ``num_rows`` rows from all over the corpus; which ones depends on nothing else."""
        run = min(_SAMPLE_RUN_ROWS, len(self))
        places = max(min(num_rows, len(self)) // run, 1)
        starts = [place * len(self) // places for place in range(places)]
        parts = self._empty(places * run)
        self._source.read([(start, start + run) for start in starts], parts, torch.arange(places * run))
        return self._source.pack(parts)

    def next_batch(self) -> RowsT:
        """The next rows [B, D] in the stored number format; the last batch of an epoch may be smaller."""
        if not self._live:
            if self._position:
                self._epoch, self._position = self._next_epoch(self._generator), 0
            self._fill()
        if not len(self._order_N):
            self._shuffle()
        slots, self._order_N = self._order_N[: self._batch_rows], self._order_N[self._batch_rows :]
        parts = tuple(ring_ND.index_select(0, slots) for ring_ND in self._rings_ND)
        self._ids_N[slots] = -1
        self._live -= len(slots)
        if not len(self._order_N):
            self._fill()
        return self._source.pack(parts)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides which rows come next."""
        return {
            "epoch": self._epoch.number,
            "position": self._position,
            "runs": self._epoch.runs_R,
            "ids": self._ids_N.clone(),
            "order": self._order_N.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken: the rows in the slots are read again."""
        self._epoch = _Epoch(int(state["epoch"]), self._bounds_R, runs_R=state["runs"])
        self._position = int(state["position"])
        self._ids_N, self._order_N = state["ids"].clone(), state["order"].clone()
        self._generator.set_state(state["generator"])
        self._live = int((self._ids_N >= 0).sum())
        self._read_again()
        if len(self._order_N):
            self._source.expect(self._upcoming())

    def _read_again(self) -> None:
        """Repeat the reads that filled the slots, the latest first, until every live slot has its row."""
        ids, slot_of = self._ids_N.sort()
        ids, slot_of = ids[len(ids) - self._live :], slot_of[len(ids) - self._live :]
        edges = [*range(self.capacity, self._position, self._refill_rows), self._position]
        missing = self._live
        while missing:
            stop = edges.pop()
            ranges = self._epoch.ranges(edges[-1] if edges else 0, stop)
            rows_N = _rows(ranges)
            place_N = torch.searchsorted(ids, rows_N).clamp(max=self._live - 1)
            slots = torch.where(ids[place_N] == rows_N, slot_of[place_N], -1)
            found = int((slots >= 0).sum())
            if found:
                self._source.read(ranges, self._rings_ND, slots)
            missing -= found

    def _empty(self, num_rows: int) -> tuple[Tensor, ...]:
        dtype = getattr(torch, self._source.dtype)
        return tuple(torch.empty(num_rows, width, dtype=dtype) for width in self._source.widths)

    def _shuffle(self) -> None:
        """Choose which live slots the next batches draw: half of them, or all once the epoch runs out."""
        live = torch.nonzero(self._ids_N >= 0).squeeze(1)
        order = live[torch.randperm(len(live), generator=self._generator)]
        self._order_N = order[: self._refill_rows] if self._position < len(self) else order
        self._source.expect(self._upcoming())

    def _upcoming(self) -> Ranges:
        """What the next refill will read: of this epoch, or of the next one where nothing is left of it."""
        if self._position < len(self):
            return self._epoch.ranges(self._position, min(self._position + self._refill_rows, len(self)))
        ahead = torch.Generator()
        ahead.set_state(self._generator.get_state())
        return self._next_epoch(ahead).ranges(0, self.capacity)

    def _next_epoch(self, generator: torch.Generator) -> "_Epoch":
        return _Epoch(self._epoch.number + 1, self._bounds_R, generator)

    def _fill(self) -> None:
        """Put the next rows of the epoch into the empty slots, as far as there are any left."""
        slots = torch.nonzero(self._ids_N < 0).squeeze(1)[: len(self) - self._position]
        if len(slots):
            ranges = self._epoch.ranges(self._position, self._position + len(slots))
            self._source.read(ranges, self._rings_ND, slots)
            self._ids_N[slots] = _rows(ranges)
            self._live += len(slots)
            self._position += len(slots)


class _Epoch:
    """The order in which one pass over the corpus reads the runs."""

    def __init__(
        self,
        number: int,
        bounds_R: NDArray[np.int64],
        generator: torch.Generator | None = None,
        runs_R: Tensor | None = None,
    ) -> None:
        self.number = number
        self.runs_R = torch.randperm(len(bounds_R) - 1, generator=generator) if runs_R is None else runs_R
        runs = self.runs_R.numpy()
        self._stops_R = bounds_R[1:][runs]
        self._ends_R = np.cumsum(np.diff(bounds_R)[runs])

    def ranges(self, start: int, stop: int) -> Ranges:
        """The rows that are read from the ``start``-th to before the ``stop``-th."""
        found = []
        run = int(np.searchsorted(self._ends_R, start, side="right"))
        while start < stop:
            end, behind = min(stop, int(self._ends_R[run])), int(self._stops_R[run] - self._ends_R[run])
            found.append((behind + start, behind + end))
            start, run = end, run + 1
        return found


def _run_bounds(ends_S: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    """Where runs begin and the last one ends, in rows; ``ends_S`` are the ends of the sequences."""
    rows = min(_RUN_ROWS, max(capacity // _PLACES, 1))
    longest = max(capacity // _FEWEST_PLACES, 1)
    even = np.arange(rows, ends_S[-1], rows)
    sequence = np.searchsorted(ends_S, even)
    fits = np.diff(ends_S, prepend=0)[sequence] <= longest
    cuts = np.where(fits, ends_S[sequence], even)
    return np.unique(np.concatenate([[0], cuts, ends_S[-1:]]))


def _rows(ranges: Ranges) -> Tensor:
    return torch.cat([torch.arange(first, end) for first, end in ranges])
