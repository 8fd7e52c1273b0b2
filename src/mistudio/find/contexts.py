"""The best contexts of every feature, each from another document, kept in bounded memory.

One pass over the activations in chunks that never cut a sequence. For each feature the best C peaks are
held, at most one a document, with the feature's activation on the tokens around the peak. Best are the
strongest, or those with the largest number drawn by lot: then they are a sample. The result does not
depend on how the rows are cut into chunks, nor on which part of them was looked at where: peaks are ordered
by value, then by document, sequence and position.

Shape legend: A active (token, feature) pairs, F features, C contexts a feature, W tokens of a window,
P candidate peaks, N rows of a chunk.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.sae import ActiveLatents

_INT_FIELDS = ("document", "sequence", "position")
_FIRST_PAIRS = 1 << 14
_PAIRS_AT_ONCE = 1 << 16  # so that what is made of them stays in the cache
_PEAKS_AT_ONCE = 1 << 12  # whose windows are looked up
_MERGED_AT_ONCE = 1 << 17  # peaks, so that copies of windows take little memory
_LOT_BITS = 24  # as many as a float32 holds exactly


class ChunkRows(NamedTuple):
    """Where the rows of a chunk come from, each [N]; sequences are whole and their rows in order."""

    document: NDArray[np.int32]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]


class _Peaks(NamedTuple):
    """Peaks in parallel arrays [P], with their windows [P, W]."""

    feature: NDArray[np.int64]
    value: NDArray[np.float32]
    document: NDArray[np.int32]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    row: NDArray[np.int32]  # of the chunk at hand; -1 for those of earlier ones, whose windows are known
    window: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "_Peaks":
        return _Peaks._make(column[rows] for column in self)


class TopContexts:
    """The C best peaks of each of F features; empty places have document -1.

    ``value_FC`` is what they are ranked by; ``window_FCW`` holds activations in any case.
    """

    def __init__(self, num_features: int, num_contexts: int, before: int, after: int) -> None:
        self.num_features, self.num_contexts = num_features, num_contexts
        self.before, self.after = before, after
        shape = (num_features, num_contexts)
        self.value_FC = np.full(shape, -np.inf, dtype=np.float32)
        self.ints_FC = {name: np.full(shape, -1, dtype=np.int32) for name in _INT_FIELDS}
        self.window_FCW = np.full((*shape, before + 1 + after), np.nan, dtype=np.float32)
        self._row_FC = np.full(shape, -1, dtype=np.int32)
        self._seen = 0

    def update(self, active: ActiveLatents, rows: ChunkRows, lot_A: NDArray[np.float32] | None = None) -> None:
        """Take in the active latents of a chunk; tokens are numbered by the chunk's rows.

        Args:
            active: the pairs.
            rows: where their tokens come from.
            lot_A: what to rank the pairs by instead of their activations.
        """
        if not self.num_contexts:
            return
        row_A, feature_A = active.token_A.cpu().numpy(), active.feature_A.cpu().numpy()
        value_A = active.value_A.cpu().numpy()
        rank_A = value_A if lot_A is None else lot_A
        start = 0
        # Thresholds rise quickly at first: the pieces grow with what was seen, so that few pairs are ever sorted.
        while start < len(row_A):
            stop = start + max(self._seen, _FIRST_PAIRS)
            piece = slice(start, stop)
            lowest_F = self.value_FC[:, -1].copy()  # side by side, so that they stay in the cache
            hopeful = start + _hopeful(rank_A[piece], feature_A[piece], lowest_F)
            if len(hopeful):
                self._merge(self._peaks(row_A[hopeful], feature_A[hopeful], rank_A[hopeful], rows))
            self._seen += len(row_A[piece])
            start = stop
        self._look_around(row_A, feature_A, value_A, rows.sequence)

    def merge(self, state: dict[str, Tensor]) -> None:
        """Take in what another search over other documents or the same ones has found, by its state."""
        found = np.nonzero(state["document"].numpy() >= 0)
        if not len(found[0]):
            return
        value, window = state["value"].numpy()[found], state["window"].numpy()[found]
        ints = {name: state[name].numpy()[found] for name in _INT_FIELDS}
        known = np.full(len(value), -1, dtype=np.int32)
        self._merge(_Peaks(feature=found[0], value=value, row=known, window=window, **ints))

    def state_dict(self) -> dict[str, Tensor]:
        """All peaks and windows."""
        ints = {name: torch.from_numpy(array) for name, array in self.ints_FC.items()}
        return {"value": torch.from_numpy(self.value_FC), "window": torch.from_numpy(self.window_FCW), **ints}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.value_FC, self.window_FCW = state["value"].numpy(), state["window"].numpy()
        self.ints_FC = {name: state[name].numpy() for name in _INT_FIELDS}

    def _peaks(
        self, row_P: NDArray[np.int64], feature_P: NDArray[np.int64], value_P: NDArray[np.float32], rows: ChunkRows
    ) -> _Peaks:
        """The few best of a chunk's pairs; their windows are looked up when it is known which of them stay."""
        document, sequence, position = (each[row_P] for each in rows)
        no_window = np.empty((len(row_P), 0), dtype=np.float32)
        peaks = _Peaks(feature_P, value_P, document, sequence, position, row_P.astype(np.int32), no_window)
        peaks = peaks.take(_best_of_each_document(peaks))
        return peaks.take(np.flatnonzero(_rank(peaks) < self.num_contexts))

    def _look_around(
        self,
        row_A: NDArray[np.int64],
        feature_A: NDArray[np.int64],
        value_A: NDArray[np.float32],
        sequence_N: NDArray[np.int32],
    ) -> None:
        """The features' activations around the peaks of this chunk; NaN outside the sequence."""
        feature_P, place_P = np.nonzero(self._row_FC >= 0)
        if not len(feature_P):
            return
        row_P = self._row_FC[feature_P, place_P].astype(np.int64)
        order = np.lexsort((feature_P, row_P))  # neighbouring look-ups find what they need in the cache
        feature_P, place_P, row_P = feature_P[order], place_P[order], row_P[order]
        edges = np.append(np.flatnonzero(np.diff(sequence_N, prepend=-1)), len(sequence_N))
        next_P = np.searchsorted(edges, row_P, side="right")
        first_P = np.maximum(row_P - self.before, edges[next_P - 1])
        count_P = np.minimum(row_P + self.after + 1, edges[next_P]) - first_P
        key_A = row_A * self.num_features + feature_A
        window_PW = np.full((len(row_P), self.before + 1 + self.after), np.nan, dtype=np.float32)
        for start in range(0, len(row_P), _PEAKS_AT_ONCE):
            block = slice(start, start + _PEAKS_AT_ONCE)
            count = count_P[block]
            peak = start + np.repeat(np.arange(len(count)), count)
            near = np.arange(len(peak)) + np.repeat(first_P[block] - (count.cumsum() - count), count)
            wanted = near * self.num_features + feature_P[peak]
            found = np.minimum(np.searchsorted(key_A, wanted), len(key_A) - 1)
            values = np.where(key_A[found] == wanted, value_A[found], 0)
            window_PW[peak, near - row_P[peak] + self.before] = values
        self.window_FCW[feature_P, place_P] = window_PW
        self._row_FC[feature_P, place_P] = -1

    def _merge(self, new: _Peaks) -> None:
        """Put new peaks, which lie by feature, in their places among the old ones of the same features."""
        first = 0
        while first < len(new.feature):
            last = new.feature[min(first + _MERGED_AT_ONCE, len(new.feature)) - 1]
            stop = int(np.searchsorted(new.feature, last, side="right"))
            self._merge_block(_Peaks._make(column[first:stop] for column in new))
            first = stop

    def _merge_block(self, new: _Peaks) -> None:
        if not new.window.shape[1]:  # not known yet
            new = new._replace(window=np.full((len(new.row), self.window_FCW.shape[2]), np.nan, dtype=np.float32))
        touched = np.unique(new.feature)
        kept_feature, kept_place = np.nonzero(self.ints_FC["document"][touched] >= 0)
        kept_feature = touched[kept_feature]
        where = (kept_feature, kept_place)
        old_ints = {name: self.ints_FC[name][where] for name in _INT_FIELDS}
        old_row, old_window = self._row_FC[where], self.window_FCW[where]
        old = _Peaks(feature=kept_feature, value=self.value_FC[where], row=old_row, window=old_window, **old_ints)
        peaks = _Peaks._make(np.concatenate([getattr(old, name), getattr(new, name)]) for name in _Peaks._fields)
        peaks = peaks.take(_best_of_each_document(peaks))
        rank = _rank(peaks)
        chosen = np.flatnonzero(rank < self.num_contexts)
        peaks, place = peaks.take(chosen), (peaks.feature[chosen], rank[chosen])
        # A feature never has fewer contexts than before, so each of its old places is written again.
        self.value_FC[place], self.window_FCW[place], self._row_FC[place] = peaks.value, peaks.window, peaks.row
        for name in _INT_FIELDS:
            self.ints_FC[name][place] = getattr(peaks, name)


class PrioritySample:
    """Draws a number for each (feature, token): the same for the same seed, wherever and whenever it is asked for.

    A feature's numbers are those of the tokens, taken in an order of its own; so the peaks with the largest are a
    sample of its activations. SplitMix64 (Steele, Lea and Flood 2014) mixes them.
    """

    def __init__(self, num_features: int, seed: int) -> None:
        self.seed = seed
        self._order_F = hashed(np.arange(num_features, dtype=np.uint64), seed + 1)

    def draw(self, active: ActiveLatents, rows: ChunkRows) -> NDArray[np.float32]:
        """Numbers [A] from 0 to below 2**24, as float32."""
        token_N = hashed(
            hashed(rows.sequence.astype(np.uint64), self.seed) ^ rows.position.astype(np.uint64), self.seed
        )
        shift = np.uint64(64 - _LOT_BITS)
        token_N, order_F = (token_N >> shift).astype(np.int32), (self._order_F >> shift).astype(np.int32)
        lot_A = token_N[active.token_A.cpu().numpy()] ^ order_F[active.feature_A.cpu().numpy()]
        numbers_A: NDArray[np.float32] = lot_A.astype(np.float32)
        return numbers_A


def hashed(number_N: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Pseudo-random numbers, one for each number (SplitMix64's output function)."""
    state_N = number_N * np.uint64(0x9E3779B97F4A7C15) + np.uint64((seed * 0xD1342543DE82EF95) % (1 << 64))
    state_N = (state_N ^ (state_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_N = (state_N ^ (state_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state_N ^ (state_N >> np.uint64(31))


def _hopeful(
    rank_A: NDArray[np.float32], feature_A: NDArray[np.int64], lowest_F: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The numbers of the pairs that are not below the lowest of their feature."""
    starts = range(0, len(rank_A), _PAIRS_AT_ONCE)
    blocks = [(start, slice(start, start + _PAIRS_AT_ONCE)) for start in starts]
    return np.concatenate(
        [start + np.flatnonzero(rank_A[block] >= lowest_F[feature_A[block]]) for start, block in blocks]
    )


def _best_of_each_document(peaks: _Peaks) -> NDArray[np.int64]:
    """Row numbers of the best peak of each (feature, document), in the order that ranks them."""
    group, place = _packed(peaks.feature, peaks.document), _packed(peaks.sequence, peaks.position)
    by_document = np.lexsort((place, -peaks.value, group))
    group = group[by_document]
    best = by_document[np.flatnonzero(np.diff(group, prepend=-1))]
    # They lie by document within a feature, and a stable sort leaves those of one value so.
    return best[np.lexsort((-peaks.value[best], peaks.feature[best]))]


def _packed(high: NDArray[np.integer], low: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pairs of whole numbers as numbers of the same order: one key to sort by instead of two."""
    return (high.astype(np.int64) << 32) + low  # a special token may have the position -1


def _rank(peaks: _Peaks) -> NDArray[np.int64]:
    """The place of each peak within its feature, for peaks that are sorted by feature."""
    starts = np.flatnonzero(np.diff(peaks.feature, prepend=-1))
    return np.arange(len(peaks.feature)) - np.repeat(starts, np.diff(starts, append=len(peaks.feature)))
