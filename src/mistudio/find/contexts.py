"""The strongest contexts of every feature, each from another document, kept in bounded memory.

One pass over the activations in chunks that never cut a sequence. For each feature the best C peaks are
held, at most one a document, with the feature's activation on the tokens around the peak. The result does
not depend on how the rows are cut into chunks: peaks are ordered by value, then by document, sequence and
position.

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
    window: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "_Peaks":
        return _Peaks._make(column[rows] for column in self)


class TopContexts:
    """The C strongest peaks of each of F features; empty places have document -1."""

    def __init__(self, num_features: int, num_contexts: int, before: int, after: int) -> None:
        self.num_features, self.num_contexts = num_features, num_contexts
        self.before, self.after = before, after
        shape = (num_features, num_contexts)
        self.value_FC = np.full(shape, -np.inf, dtype=np.float32)
        self.ints_FC = {name: np.full(shape, -1, dtype=np.int32) for name in _INT_FIELDS}
        self.window_FCW = np.full((*shape, before + 1 + after), np.nan, dtype=np.float32)

    def update(self, active: ActiveLatents, rows: ChunkRows) -> None:
        """Take in the active latents of a chunk; tokens are numbered by the chunk's rows."""
        row_A, feature_A = active.token_A.cpu().numpy(), active.feature_A.cpu().numpy()
        value_A = active.value_A.cpu().numpy()
        hopeful = np.flatnonzero(value_A >= self.value_FC[feature_A, -1])
        if not len(hopeful):
            return
        peak_rows, peak_features, peak_values = row_A[hopeful], feature_A[hopeful], value_A[hopeful]
        candidates = _Peaks(
            peak_features,
            peak_values,
            rows.document[peak_rows],
            rows.sequence[peak_rows],
            rows.position[peak_rows],
            window=np.empty((len(hopeful), 0), dtype=np.float32),
        )
        best = _best_of_each_document(candidates)
        best = best[_rank(candidates.take(best)) < self.num_contexts]
        window_PW = self._windows(peak_rows[best], peak_features[best], row_A, feature_A, value_A, rows.sequence)
        self._merge(candidates.take(best)._replace(window=window_PW))

    def state_dict(self) -> dict[str, Tensor]:
        """All peaks and windows."""
        ints = {name: torch.from_numpy(array) for name, array in self.ints_FC.items()}
        return {"value": torch.from_numpy(self.value_FC), "window": torch.from_numpy(self.window_FCW), **ints}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.value_FC, self.window_FCW = state["value"].numpy(), state["window"].numpy()
        self.ints_FC = {name: state[name].numpy() for name in _INT_FIELDS}

    def _windows(
        self,
        row_P: NDArray[np.int64],
        feature_P: NDArray[np.int64],
        row_A: NDArray[np.int64],
        feature_A: NDArray[np.int64],
        value_A: NDArray[np.float32],
        sequence_N: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """The features' activations around the peaks; NaN outside the sequence."""
        key_A = row_A * self.num_features + feature_A
        window_PW = np.full((len(row_P), self.before + 1 + self.after), np.nan, dtype=np.float32)
        for place, shift in enumerate(range(-self.before, self.after + 1)):
            near_P = row_P + shift
            inside = (near_P >= 0) & (near_P < len(sequence_N))
            inside[inside] = sequence_N[near_P[inside]] == sequence_N[row_P[inside]]
            wanted = near_P[inside] * self.num_features + feature_P[inside]
            found = np.minimum(np.searchsorted(key_A, wanted), len(key_A) - 1)
            window_PW[inside, place] = np.where(key_A[found] == wanted, value_A[found], 0)
        return window_PW

    def _merge(self, new: _Peaks) -> None:
        """Put new peaks in their places among the old ones of the same features."""
        touched = np.unique(new.feature)
        kept_feature, kept_place = np.nonzero(self.ints_FC["document"][touched] >= 0)
        kept_feature = touched[kept_feature]
        where = (kept_feature, kept_place)
        old_ints = {name: self.ints_FC[name][where] for name in _INT_FIELDS}
        old = _Peaks(feature=kept_feature, value=self.value_FC[where], window=self.window_FCW[where], **old_ints)
        peaks = _Peaks._make(np.concatenate([getattr(old, name), getattr(new, name)]) for name in _Peaks._fields)
        peaks = peaks.take(_best_of_each_document(peaks))
        rank = _rank(peaks)
        chosen = np.flatnonzero(rank < self.num_contexts)
        peaks, place = peaks.take(chosen), (peaks.feature[chosen], rank[chosen])
        # A feature never has fewer contexts than before, so each of its old places is written again.
        self.value_FC[place], self.window_FCW[place] = peaks.value, peaks.window
        for name in _INT_FIELDS:
            self.ints_FC[name][place] = getattr(peaks, name)


def _best_of_each_document(peaks: _Peaks) -> NDArray[np.int64]:
    """Row numbers of the best peak of each (feature, document), in the order that ranks them."""
    by_document = np.lexsort((peaks.position, peaks.sequence, -peaks.value, peaks.document, peaks.feature))
    feature, document = peaks.feature[by_document], peaks.document[by_document]
    first = np.ones(len(by_document), dtype=bool)
    first[1:] = (feature[1:] != feature[:-1]) | (document[1:] != document[:-1])
    best = by_document[first]
    return best[np.lexsort((peaks.document[best], -peaks.value[best], peaks.feature[best]))]


def _rank(peaks: _Peaks) -> NDArray[np.int64]:
    """The place of each peak within its feature, for peaks that are sorted by feature."""
    starts = np.flatnonzero(np.diff(peaks.feature, prepend=-1))
    return np.arange(len(peaks.feature)) - np.repeat(starts, np.diff(starts, append=len(peaks.feature)))
