"""Which sequences go into which shard and which forward pass; a pure function of their lengths.

Sequences of like length share a batch, so that little of a forward pass is padding; the plan is known
before the model is loaded, so that a resumed run cuts the same shards as an uninterrupted one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ShardPlan:
    """A run of consecutive sequences whose kept rows fill one shard."""

    first: int
    stop: int
    num_rows: int


@dataclass(frozen=True)
class CapturePlan:
    """How one split of a corpus is cut into shards and batches.

    Attributes:
        lengths_S: tokens of each sequence, special tokens included.
        num_special: special tokens of each sequence whose activations are not kept.
        shards: the shards, in order.
        batch_tokens: most tokens of one forward pass, padding included.
    """

    lengths_S: NDArray[np.int32]
    num_special: int
    shards: tuple[ShardPlan, ...]
    batch_tokens: int

    @property
    def num_rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    def batches(self, shard: ShardPlan) -> Iterator[NDArray[np.int64]]:
        """Sequence indices of each forward pass, longest sequences first."""
        for batch in like_lengths(self.lengths_S[shard.first : shard.stop], self.batch_tokens):
            yield shard.first + batch

    def sequences(self) -> NDArray[np.int64]:
        """All sequence indices, in the order in which their rows are stored."""
        return np.concatenate([batch for shard in self.shards for batch in self.batches(shard)])

    def rows(self, sequences_S: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows of each sequence are kept; of one that is no longer than its special tokens, none."""
        return np.maximum(self.lengths_S[sequences_S].astype(np.int64) - self.num_special, 0)

    def num_batches(self, shard: ShardPlan) -> int:
        """Forward passes that a shard takes."""
        return sum(1 for _ in self.batches(shard))

    def padding_fraction(self) -> float:
        """Share of all tokens passed through the model that are padding."""
        padded = real = 0
        for shard in self.shards:
            for batch in self.batches(shard):
                lengths = self.lengths_S[batch]
                padded += int(lengths.max()) * len(batch)
                real += int(lengths.sum())
        return 1 - real / padded if padded else 0.0


def like_lengths(lengths_S: NDArray[np.int32], batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Put sequences of like length together, longest first, as indices of ``lengths_S``.

    A batch has at most ``batch_tokens`` tokens, padding included, or one sequence.
    """
    order = np.argsort(-lengths_S, kind="stable")
    done = 0
    while done < len(order):
        size = max(batch_tokens // max(int(lengths_S[order[done]]), 1), 1)
        yield order[done : done + size]
        done += size


def plan_capture(
    lengths_S: NDArray[np.int32], num_special: int, shard_rows: int, batch_tokens: int, max_rows: int | None = None
) -> CapturePlan:
    """Cut a split into shards of at most ``shard_rows`` rows, whole sequences each.

    A sequence with more rows than that has a shard of its own. ``max_rows`` ends the plan with the sequence
    that reaches it.
    """
    kept_S = np.maximum(lengths_S.astype(np.int64) - num_special, 0)
    if max_rows is not None:
        kept_S = kept_S[: int(np.searchsorted(np.cumsum(kept_S), max_rows)) + 1]
    shards: list[ShardPlan] = []
    first = rows = 0
    for index, kept in enumerate(kept_S.tolist()):
        if rows and rows + kept > shard_rows:
            shards.append(ShardPlan(first, index, rows))
            first, rows = index, 0
        rows += kept
    if rows:
        shards.append(ShardPlan(first, len(kept_S), rows))
    return CapturePlan(lengths_S, num_special, tuple(shards), batch_tokens)
