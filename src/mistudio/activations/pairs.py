"""Pairs of activations, for transcoders: what one hook point holds, and what another held at the same token.

Shape legend: N rows, D width of the first hook point, E width of the second.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.reader import ActivationReader
from mistudio.activations.stream import Pair, Ranges
from mistudio.artifacts import Artifact
from mistudio.errors import InputError

_PLACE_COLUMNS = ("document", "sequence", "position")
_CHECK_ROWS = 1 << 18


class PairedReader:
    """The rows of two hook points and one split of an ``activations`` artifact, captured in one pass.

    Whether their sequences correspond is seen in the indexes; whether every row does, when a shard is first read.

    Raises:
        InputError: the artifact lacks one of the hook points, or their rows do not correspond.
        DamagedArtifact: a file differs from what was published.
    """

    def __init__(self, artifact: Artifact, hook: str, target_hook: str, split: str) -> None:
        self.artifact, self.hook, self.target_hook, self.split = artifact, hook, target_hook, split
        self.input = ActivationReader(artifact, hook, split)
        self.target = ActivationReader(artifact, target_hook, split)
        self.width, self.target_width, self.dtype = self.input.width, self.target.width, self.input.dtype
        self._checked: set[int] = set()  # shards
        self._check_indexes()

    def __len__(self) -> int:
        return len(self.input)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each hook point."""
        return self.width, self.target_width

    def sequence_ends(self) -> NDArray[np.int64]:
        """The row behind each sequence, ascending."""
        return self.input.sequence_ends()

    def expect(self, ranges: Ranges) -> None:
        """Nothing is done ahead: the operating system does that."""

    def read(self, ranges: Ranges, into: tuple[Tensor, ...], slots_N: Tensor) -> None:
        """Copy the rows of ``ranges``, one after the other, to ``slots_N`` of ``into``; not those of slot -1."""
        self._check_rows(ranges)
        self.input.read(ranges, into[:1], slots_N)
        self.target.read(ranges, into[1:], slots_N)

    def pack(self, parts: tuple[Tensor, ...]) -> Pair:
        """Rows of both hook points as one batch of pairs."""
        x_ND, y_NE = parts
        return x_ND, y_NE

    def acts(self, start: int, stop: int) -> Pair:
        """Rows ``start`` to ``stop`` of both hook points [N, D] and [N, E]; not to be written to."""
        self._check_rows([(start, stop)])
        return self.input.acts(start, stop), self.target.acts(start, stop)

    def meta(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Document, sequence, position and token id of rows ``start`` to ``stop``, each [N]."""
        return self.input.meta(start, stop)

    def chunks(self, shard: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of about ``rows`` rows that together cover one shard and never cut a sequence."""
        return self.input.chunks(shard, rows)

    def _check_indexes(self) -> None:
        if len(self.input) != len(self.target):
            self._refuse(f"{self.hook} has {len(self.input):,} rows and {self.target_hook} {len(self.target):,}")
        for number, (one, two) in enumerate(zip(self.input.index.shards, self.target.index.shards, strict=False)):
            if not all(map(np.array_equal, one, two)):
                self._check_shard(number)
                self._refuse(f"shard {number} holds other sequences of one than of the other")

    def _check_rows(self, ranges: Ranges) -> None:
        if len(self._checked) == len(self.input.shards):
            return
        for shard in self.input.shards_of(ranges) - self._checked:
            self._check_shard(shard)
            self._checked.add(shard)

    def _check_shard(self, shard: int) -> None:
        rows = self.input.rows_of(shard)
        for start in range(rows.start, rows.stop, _CHECK_ROWS):
            stop = min(start + _CHECK_ROWS, rows.stop)
            meta_N, target_meta_N = self.input.meta(start, stop), self.target.meta(start, stop)
            for name in _PLACE_COLUMNS:
                differs_N = meta_N[name] != target_meta_N[name]
                if differs_N.any():
                    row = int(differs_N.argmax())
                    what = f"{name} {meta_N[name][row]} and {target_meta_N[name][row]}"
                    self._refuse(f"row {start + row:,} belongs to {what}")

    def _refuse(self, difference: str) -> None:
        message = (
            f"The rows of {self.hook} and {self.target_hook} ({self.split}) in {self.artifact.uri} do not "
            f"correspond: {difference}. Capture both hook points in one run."
        )
        raise InputError(message)
