"""Reading captured activations in order, from memory-mapped shards.

Shape legend: N rows, D width of the hook point.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.index import ShardIndex, read_index, shard_path
from mistudio.activations.shards import META_COLUMNS, ShardFile, joined
from mistudio.activations.stream import Ranges
from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact, InputError

logger = logging.getLogger(__name__)

# Pages that were read stay mapped, and count as memory of the process, until they are about so many bytes. Around
# each place that is read the kernel maps what else it holds in one piece, which can be as much as 2 MiB.
_MAPPED_BYTES = 16 << 20
_MAPPED_AROUND_BYTES = 2 << 20
_OPEN_SHARE = 0.25  # of what a machine keeps of copies, open in one reader: they take place also when they are dropped


class StoredShard:
    """A shard of an artifact, which is opened and checked when it is first read."""

    def __init__(self, artifact: Artifact, path: str, index: ShardIndex, number: int) -> None:
        self._artifact, self.path, self._index = artifact, path, index
        self.num_rows = index.shards[number].num_rows

    @cached_property
    def file(self) -> ShardFile:
        """The shard, memory-mapped.

        Raises:
            DamagedArtifact: it is not what was published, or not what the index says.
        """
        file = ShardFile(self._artifact.file(self.path))
        found, expected = (file.num_rows, file.width, file.dtype), (self.num_rows, *self._index[:2])
        if found != expected:
            message = (
                f"{self._artifact.uri}/{self.path} has (rows, width, number format) {found}, and its index says "
                f"{expected}. Run mistudio artifacts remove {self._artifact.uri}, then run capture again."
            )
            raise DamagedArtifact(message)
        return file

    def close(self) -> None:
        """Let go of the file; what was read of it stays valid. It is opened again when it is read again."""
        self.__dict__.pop("file", None)


class OpenShards:
    """Which shards are open: all, or where they are copies of a store elsewhere, as many as fit beside them."""

    def __init__(self, artifact: Artifact, shards: Sequence[StoredShard]) -> None:
        copies_bytes = artifact.store.copies_bytes
        self._shards = shards
        self._limit = None if copies_bytes is None else int(copies_bytes * _OPEN_SHARE)
        sizes = {entry.path: entry.bytes for entry in artifact.manifest.files}
        self._bytes = [sizes.get(shard.path, 0) for shard in shards]
        self._order = OrderedDict[int, None]()
        if copies_bytes is not None and sum(self._bytes) > copies_bytes:
            logger.warning(
                "The activations to read from %s are %.1f GB, and MISTUDIO_CACHE_GB allows %.1f GB: what does not fit "
                "is fetched again each time that it is read.",
                *(artifact.store.url, sum(self._bytes) / 1e9, copies_bytes / 1e9),
            )

    def use(self, shards: Iterable[int]) -> set[int]:
        """Note that some are read now; close those that were read longest ago, and tell which."""
        if self._limit is None:
            return set()
        for shard in shards:
            self._order[shard] = None
            self._order.move_to_end(shard)
        closed = set()
        needed = set(shards)
        total = sum(self._bytes[shard] for shard in self._order)
        while total > self._limit and (oldest := next(iter(self._order))) not in needed:
            del self._order[oldest]
            self._shards[oldest].close()
            total -= self._bytes[oldest]
            closed.add(oldest)
        return closed


class ActivationReader:
    """The rows of one hook point and one split of an ``activations`` artifact, memory-mapped.

    Opening reads their index alone; a shard that differs from what was published is refused when it is first read.

    Raises:
        InputError: the artifact has no such hook point, or the split has no rows.
        DamagedArtifact: the index differs from what was published.
    """

    def __init__(self, artifact: Artifact, hook: str, split: str) -> None:
        if not artifact.paths(f"{hook}/{split}/"):
            raise InputError(_nothing_stored(artifact, hook, split))
        self.artifact, self.hook, self.split = artifact, hook, split
        self.index = read_index(artifact, hook, split)
        self.shards = [
            StoredShard(artifact, shard_path(hook, split, number), self.index, number)
            for number in range(len(self.index.shards))
        ]
        self.width = self.target_width = self.index.width
        self.dtype: str = self.index.dtype
        self._ends = np.cumsum([shard.num_rows for shard in self.shards])
        self._mapped_bytes, self._touched = 0, set[int]()  # since pages were last released
        self._open = OpenShards(artifact, self.shards)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the hook point."""
        return (self.width,)

    def pack(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Rows of the hook point as one batch."""
        return parts[0]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def acts(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` [N, D] in the stored number format; not to be written to."""
        parts = [self.shards[shard].file.acts(a, b) for shard, a, b in self._read(start, stop, 2 * self.width)]
        return joined(parts, self.width, self.dtype)

    def meta(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Document, sequence, position and token id of rows ``start`` to ``stop``, each [N]."""
        pieces = self._read(start, stop, 4 * len(META_COLUMNS))
        none = np.empty(0, dtype=np.int32)
        return {
            name: np.concatenate([none, *(self.shards[shard].file.meta(name, a, b) for shard, a, b in pieces)])
            for name in META_COLUMNS
        }

    def sequence_ends(self) -> NDArray[np.int64]:
        """The row behind each sequence, ascending."""
        return np.concatenate([self._sequence_ends(shard) for shard in range(len(self.shards))])

    def expect(self, ranges: Ranges) -> None:
        """Nothing is done ahead: the operating system does that."""

    def read(self, ranges: Ranges, into: tuple[Tensor, ...], slots_N: Tensor) -> None:
        """Copy the rows of ``ranges``, one after the other, to ``slots_N`` of ``into``; not those of slot -1."""
        everything, done = bool((slots_N >= 0).all()), 0
        for first, end in ranges:
            slots, done = slots_N[done : done + end - first], done + end - first
            if everything:
                into[0].index_copy_(0, slots, self.acts(first, end))
                continue
            wanted = torch.nonzero(slots >= 0).squeeze(1)
            if len(wanted):
                into[0].index_copy_(0, slots[wanted], self.acts(first, end)[wanted])

    def chunks(self, shard: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of about ``rows`` rows that together cover one shard and never cut a sequence."""
        return chunked(self.rows_of(shard).start, self._sequence_ends(shard), rows)

    def rows_of(self, shard: int) -> range:
        """The rows of one shard."""
        stop = int(self._ends[shard])
        return range(stop - self.shards[shard].num_rows, stop)

    def shards_of(self, ranges: Ranges) -> set[int]:
        """The shards that hold the rows of ``ranges``."""
        return {shard for start, stop in ranges for shard, _, _ in self._pieces(start, stop)}

    def _sequence_ends(self, shard: int) -> NDArray[np.int64]:
        rows_S = self.index.shards[shard].rows_S
        ends_S: NDArray[np.int64] = self.rows_of(shard).start + np.cumsum(rows_S, dtype=np.int64)
        return ends_S

    def _read(self, start: int, stop: int, row_bytes: int) -> list[tuple[int, int, int]]:
        """The pieces of a range that is about to be read; lets go of what was read long before."""
        pieces = list(self._pieces(start, stop))
        if self._mapped_bytes > _MAPPED_BYTES:
            for shard in self._touched:
                self.shards[shard].file.release()
            self._mapped_bytes, self._touched = 0, set()
        self._mapped_bytes += row_bytes * (stop - start) + _MAPPED_AROUND_BYTES
        self._touched.update(shard for shard, _, _ in pieces)
        self._touched -= self._open.use([shard for shard, _, _ in pieces])
        return pieces

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The (shard, first row, last row) that make up a global range."""
        while start < stop:
            shard = int(np.searchsorted(self._ends, start, side="right"))
            first = self.rows_of(shard).start
            end = min(stop, int(self._ends[shard]))
            yield shard, start - first, end - first
            start = end


def chunked(start: int, ends_S: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of about ``rows`` rows from ``start`` to the last of ``ends_S``, each of which ends a sequence."""
    while start < ends_S[-1]:
        end = int(ends_S[min(int(np.searchsorted(ends_S, start + rows)), len(ends_S) - 1)])
        yield start, end
        start = end


def _nothing_stored(artifact: Artifact, hook: str, split: str) -> str:
    if split == "train" and artifact.manifest.config.get("stored") == "heldout":
        return (
            f"{artifact.uri} does not hold its training activations: it was captured with stored heldout. "
            "Capture with stored all for what has to read them from the store."
        )
    hooks = sorted({path.split("/")[0] for path in artifact.paths()})
    return f"{artifact.uri} has no activations of {hook} ({split}); it has {', '.join(hooks)}."
