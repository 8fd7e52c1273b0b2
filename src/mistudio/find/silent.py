"""Contexts in which a feature is not active: any, and such in which its neighbours fire strongly.

Both come from the sample of whole sequences, so that nothing more has to be encoded. A context counts only if
the feature is silent on every token of its window.

Shape legend: F features, N tokens of the sample, A active (token, feature) pairs, C candidate contexts, M a feature.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.find.contexts import ChunkRows, TopContexts, hashed
from mistudio.find.sample import Sample
from mistudio.sae import ActiveLatents

_TRIES = 8  # candidates for each context that is wanted
_STRONG = 8  # contexts of each neighbour that are looked at
_FEATURES_AT_ONCE = 1024


class SilentContexts(NamedTuple):
    """Places in the sample, by feature and rank."""

    feature: NDArray[np.int32]  # [C]
    rank: NDArray[np.int32]
    row: NDArray[np.int64]
    neighbour: NDArray[np.int32]  # the feature that fires there; -1 where it was not chosen for one


class SilentSearch:
    """Finds contexts of a sample on which given features are silent."""

    def __init__(self, sample: Sample, before: int, after: int) -> None:
        self.sample = sample
        self.num_features = sample.acts_NF.shape[1]
        place = np.arange(sample.num_tokens)
        self._low_N = np.maximum(place - before, sample.first)
        self._high_N = np.minimum(place + after + 1, sample.stop)
        by_feature = sample.acts_NF.tocsc()
        by_feature.sort_indices()
        feature_A = np.repeat(np.arange(self.num_features), np.diff(by_feature.indptr))
        self._key_A = feature_A * sample.num_tokens + by_feature.indices

    def random(self, count: int, seed: int) -> SilentContexts:
        """Up to ``count`` contexts a feature, drawn by lot, each from another document."""
        if not self.sample.num_tokens or not count:
            return _none()
        tries = np.arange(_TRIES * count, dtype=np.uint64)
        found = []
        for first in range(0, self.num_features, _FEATURES_AT_ONCE):
            features = np.arange(first, min(first + _FEATURES_AT_ONCE, self.num_features))
            lots = hashed(hashed(features.astype(np.uint64), seed + 3)[:, None] + tries, seed)
            row_FM = (lots % np.uint64(self.sample.num_tokens)).astype(np.int64)
            found.append(self._choose(features, row_FM, np.full(row_FM.shape, -1, dtype=np.int32), count))
        return _together(found)

    def hard_negatives(self, neighbours_FM: NDArray[np.int32], count: int) -> SilentContexts:
        """Up to ``count`` contexts a feature in which a neighbour fires most strongly, each from another document.

        Args:
            neighbours_FM: the neighbours of each feature, nearest first; -1 where there are no more.
            count: contexts.
        """
        if not self.sample.num_tokens or not count:
            return _none()
        strong_FS = self._strongest()
        found = []
        for first in range(0, self.num_features, _FEATURES_AT_ONCE):
            near_FM = neighbours_FM[first : first + _FEATURES_AT_ONCE]
            row_FMS = np.where(near_FM[:, :, None] >= 0, strong_FS[np.maximum(near_FM, 0)], -1)
            # The strongest context of each neighbour first, then the second of each.
            row_FC = row_FMS.transpose(0, 2, 1).reshape(len(near_FM), -1)
            who_FC = np.tile(near_FM, (1, strong_FS.shape[1]))
            found.append(self._choose(np.arange(first, first + len(near_FM)), row_FC, who_FC, count))
        return _together(found)

    def silent(self, feature_C: NDArray[np.int64], row_C: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a feature is silent all around a row of the sample."""
        base_C = feature_C * self.sample.num_tokens
        low_C = np.searchsorted(self._key_A, base_C + self._low_N[row_C])
        quiet: NDArray[np.bool_] = low_C == np.searchsorted(self._key_A, base_C + self._high_N[row_C])
        return quiet

    def _strongest(self) -> NDArray[np.int64]:
        """Rows on which each feature is strongest, each of another document [F, S]; -1 where there are no more."""
        sample = self.sample
        top = TopContexts(self.num_features, _STRONG, 0, 0)
        token_A = np.repeat(np.arange(sample.num_tokens), np.diff(sample.acts_NF.indptr))
        pairs = (token_A, sample.acts_NF.indices.astype(np.int64), sample.acts_NF.data)
        rows = np.arange(sample.num_tokens, dtype=np.int32)
        active = ActiveLatents(*(torch.from_numpy(column) for column in pairs))
        top.update(active, ChunkRows(sample.document, sample.sequence, rows))
        return top.ints_FC["position"].astype(np.int64)

    def _choose(
        self, features: NDArray[np.int64], row_FC: NDArray[np.int64], who_FC: NDArray[np.int32], count: int
    ) -> SilentContexts:
        """The first ``count`` candidates of each feature that are silent and of another document than those before."""
        feature_FC = np.broadcast_to(features[:, None], row_FC.shape)
        order_FC = np.broadcast_to(np.arange(row_FC.shape[1]), row_FC.shape)
        there = row_FC >= 0
        feature, row, who, order = feature_FC[there], row_FC[there], who_FC[there], order_FC[there]
        quiet = self.silent(feature, row)
        feature, row, who, order = feature[quiet], row[quiet], who[quiet], order[quiet]
        document = self.sample.document[row]
        by_document = np.lexsort((order, document, feature))
        first = np.ones(len(by_document), dtype=bool)
        sorted_feature, sorted_document = feature[by_document], document[by_document]
        first[1:] = (np.diff(sorted_feature) != 0) | (np.diff(sorted_document) != 0)
        kept = np.sort(by_document[first])  # candidates lie by feature, then by order
        feature, row, who = feature[kept], row[kept], who[kept]
        starts = np.searchsorted(feature, feature, side="left")
        rank = np.arange(len(feature)) - starts
        chosen = rank < count
        return SilentContexts(
            feature[chosen].astype(np.int32), rank[chosen].astype(np.int32), row[chosen], who[chosen].astype(np.int32)
        )


def _none() -> SilentContexts:
    none = np.empty(0, dtype=np.int32)
    return SilentContexts(none, none, none.astype(np.int64), none)


def _together(found: list[SilentContexts]) -> SilentContexts:
    return SilentContexts._make(np.concatenate(columns) for columns in zip(*found, strict=True))
