"""Activations live from the model: the rows that capture would have stored, computed when they are asked for.

Rows have the numbers that they would have in the shards. What is to be read next is computed on another thread
while the trainer is busy. The rows of one reading share forward passes, sequences of like length together; so a row
depends on which others it was read with, but by no more than rounding.

Shape legend: N rows, D width of a hook point, S sequences in the order of their rows.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.passes import CorpusPasses
from mistudio.activations.plan import CapturePlan, like_lengths
from mistudio.activations.prefetch import Prefetched
from mistudio.activations.reader import chunked
from mistudio.activations.stream import Pair, Ranges
from mistudio.corpus.reader import Split


class _Pass(NamedTuple):
    """One forward pass for a reading."""

    sequences: NDArray[np.int64]  # numbers in the corpus
    row_N: NDArray[np.int64]  # which of the rows of the pass are asked for
    place_N: NDArray[np.int64]  # and where in the reading each belongs


class _Computed(NamedTuple):
    """What it gave."""

    place_N: Tensor
    parts: list[Tensor]  # each [N, D]


class LiveReader:
    """The rows of one split at the hook points of ``passes``: one, or a pair; close it after use.

    Args:
        passes: model, corpus and hook points.
        plan: how capture would cut the split.
        split: train or heldout.
    """

    def __init__(self, passes: CorpusPasses, plan: CapturePlan, split: Split) -> None:
        self.split, self.shards, self.hook = split, plan.shards, str(passes.hooks[0].point)
        self.widths = tuple(hook.width for hook in passes.hooks)
        self.width, self.target_width = self.widths[0], self.widths[-1]
        self.dtype: str = passes.config.storage_dtype
        self._passes, self._plan = passes, plan
        sequences_S = plan.sequences()
        rows_S = plan.rows(sequences_S)
        self._sequences_S, rows_S = sequences_S[rows_S > 0], rows_S[rows_S > 0]
        self._ends_S = np.cumsum(rows_S)
        self._starts_S = self._ends_S - rows_S
        self._expected: Ranges | None = None
        self._coming: Prefetched[_Computed] | None = None

    def __len__(self) -> int:
        return int(self._ends_S[-1])

    def sequence_ends(self) -> NDArray[np.int64]:
        """The row behind each sequence, ascending."""
        return self._ends_S

    def expect(self, ranges: Ranges) -> None:
        """Begin to compute these rows; what was expected before and not read is given up."""
        self._begin(self._passes_for(ranges))
        self._expected = ranges

    def read(self, ranges: Ranges, into: tuple[Tensor, ...], slots_N: Tensor) -> None:
        """Copy the rows of ``ranges``, one after the other, to ``slots_N`` of ``into``; not those of slot -1.

        Raises:
            InputError: an activation does not fit the storage format.
        """
        if ranges != self._expected:
            wanted_N = (slots_N >= 0).numpy()
            self._begin([each for each in self._passes_for(ranges) if wanted_N[each.place_N].any()])
        with closing(self):
            for place_N, parts in self._coming or ():
                slots = slots_N[place_N]
                wanted = torch.nonzero(slots >= 0).squeeze(1)
                for target_ND, rows_ND in zip(into, parts, strict=True):
                    target_ND.index_copy_(0, slots[wanted], rows_ND[wanted])

    def acts(self, start: int, stop: int) -> Tensor | Pair:
        """Rows ``start`` to ``stop`` in the storage format."""
        parts = tuple(torch.empty(stop - start, width, dtype=getattr(torch, self.dtype)) for width in self.widths)
        self.read([(start, stop)], parts, torch.arange(stop - start))
        return self.pack(parts)

    def pack(self, parts: tuple[Tensor, ...]) -> Tensor | Pair:
        """Rows of each hook point as one batch."""
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    def meta(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Document, sequence, position and token id of rows ``start`` to ``stop``, each [N]."""
        row_N = np.arange(start, stop)
        at_N = np.searchsorted(self._ends_S, row_N, side="right")
        touched, which_N = np.unique(at_N, return_inverse=True)
        batch = self._passes.corpus.batch(self.split, self._sequences_S[touched])
        first_token = np.cumsum([0, *map(len, batch.token_ids)])
        place_N = row_N - self._starts_S[at_N] + self._passes.num_prefix
        meta_N = {
            "document": batch.document[which_N],
            "sequence": self._sequences_S[at_N],
            "position": batch.start[which_N] + place_N - self._passes.corpus.num_prefix,
            "token_id": np.concatenate([np.empty(0, np.int32), *batch.token_ids])[first_token[which_N] + place_N],
        }
        return {name: column_N.astype(np.int32) for name, column_N in meta_N.items()}

    def chunks(self, shard: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of about ``rows`` rows that together cover what would be one shard and never cut a sequence."""
        start = sum(each.num_rows for each in self.shards[:shard])
        stop = start + self.shards[shard].num_rows
        return chunked(start, self._ends_S[(self._ends_S > start) & (self._ends_S <= stop)], rows)

    def close(self) -> None:
        """Give up what is being computed, and end the thread."""
        if self._coming is not None:
            self._coming.close()
        self._expected, self._coming = None, None

    def _begin(self, passes: list[_Pass]) -> None:
        self.close()
        self._coming = Prefetched(self._compute, passes, max(len(passes), 1))

    def _compute(self, one: _Pass) -> _Computed:
        acts = self._passes.rows(self.split, one.sequences).acts
        row_N = torch.from_numpy(one.row_N)
        return _Computed(torch.from_numpy(one.place_N), [acts[hook.point][row_N] for hook in self._passes.hooks])

    def _passes_for(self, ranges: Ranges) -> list[_Pass]:
        """The forward passes that give these rows: each sequence once, those of like length together."""
        rows_N = np.concatenate([np.arange(first, end) for first, end in ranges])
        at_N = np.searchsorted(self._ends_S, rows_N, side="right")
        by_sequence_N = np.argsort(at_N, kind="stable")
        touched, first, count = np.unique(at_N[by_sequence_N], return_index=True, return_counts=True)
        lengths = self._plan.lengths_S[self._sequences_S[touched]]
        passes = []
        for batch in like_lengths(lengths, self._plan.batch_tokens):
            at = touched[batch]
            place_N = np.concatenate([by_sequence_N[first[i] : first[i] + count[i]] for i in batch])
            before = np.cumsum(self._ends_S[at] - self._starts_S[at]) - self._ends_S[at]  # rows before, in the pass
            row_N = rows_N[place_N] + np.repeat(before, count[batch])
            passes.append(_Pass(self._sequences_S[at], row_N, place_N))
        return passes
