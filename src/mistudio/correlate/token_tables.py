"""From tokens to features: the tables of what was found, turned round.

Each is read once, from end to end, when it is first asked for; what is kept are four numbers a pair of token and
feature.

Shape legend: P pairs of token and feature, R rows of a batch, H pairs of one token.
"""

from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.features import CONTEXTS, FEATURES
from mistudio.features.tables import TableReader


class OfToken(NamedTuple):
    """The features that go with one token."""

    feature_H: NDArray[np.int64]
    value_H: NDArray[np.float64]  # contexts: share of the feature's top contexts; lift: how many times as often
    mean_H: NDArray[np.float64]  # contexts: mean activation at those peaks; lift: the same as the value


class _Pairs(NamedTuple):
    """Pairs by token, then by feature."""

    token_P: NDArray[np.int32]
    feature_P: NDArray[np.int32]
    value_P: NDArray[np.float32]
    mean_P: NDArray[np.float32]

    def of(self, token: int) -> OfToken:
        own = slice(*np.searchsorted(self.token_P, (token, token + 1)).tolist())
        return OfToken(
            self.feature_P[own].astype(np.int64),
            self.value_P[own].astype(np.float64),
            self.mean_P[own].astype(np.float64),
        )


class TokenTables:
    """Which features go with a token; any number of threads may ask.

    Args:
        features: artifact of kind ``features``.
    """

    def __init__(self, features: Artifact) -> None:
        self._features = features
        self._locks = {"contexts": Lock(), "lift": Lock()}
        self._pairs: dict[str, _Pairs] = {}

    def contexts(self, token: int) -> OfToken:
        """Features whose top contexts peak on the token."""
        return self._get("contexts").of(token)

    def lift(self, token: int) -> OfToken:
        """Features that fire on the token more often than by chance, as far as the table of features lists them."""
        return self._get("lift").of(token)

    def _get(self, name: str) -> _Pairs:
        with self._locks[name]:
            if name not in self._pairs:
                self._pairs[name] = _contexts(self._features) if name == "contexts" else _lift(self._features)
            return self._pairs[name]


def _contexts(features: Artifact) -> _Pairs:
    """The peaks of all top contexts, counted by token and feature."""
    token_R, feature_R, value_R = _joined(_peaks(features))
    order = np.lexsort((feature_R, token_R))
    token_R, feature_R, value_R = token_R[order], feature_R[order], value_R[order]
    is_first_R = np.ones(len(token_R), dtype=np.bool_)
    is_first_R[1:] = (np.diff(token_R) != 0) | (np.diff(feature_R) != 0)
    start_P = np.flatnonzero(is_first_R)
    count_P = np.diff(np.append(start_P, len(token_R)))
    contexts_F = np.bincount(feature_R, minlength=1)
    sum_P = np.add.reduceat(value_R.astype(np.float64), start_P) if len(start_P) else np.empty(0)
    token_P, feature_P = token_R[start_P], feature_R[start_P]
    share_P, mean_P = count_P / contexts_F[feature_P], sum_P / count_P
    return _Pairs(token_P, feature_P, share_P.astype(np.float32), mean_P.astype(np.float32))


def _peaks(features: Artifact) -> Iterator[tuple[pa.Array, pa.Array, pa.Array]]:
    """Token, feature and activation at the peaks of top contexts, batch by batch."""
    for batch in TableReader(features, CONTEXTS).batches(["feature", "kind", "value", "peak", "token_ids"]):
        top = batch.filter(pc.equal(batch["kind"], "top"))
        starts_R = top["token_ids"].offsets.to_numpy()[:-1]
        token_R = top["token_ids"].values.to_numpy()[starts_R + top["peak"].to_numpy()]
        yield token_R, top["feature"].to_numpy(), top["value"].to_numpy()


def _lift(features: Artifact) -> _Pairs:
    """The lift tokens of all features."""
    token_R, feature_R, value_R = _joined(_lifts(features))
    order = np.lexsort((feature_R, token_R))
    return _Pairs(token_R[order], feature_R[order], value_R[order], value_R[order])


def _lifts(features: Artifact) -> Iterator[tuple[pa.Array, pa.Array, pa.Array]]:
    for batch in TableReader(features, FEATURES).batches(["feature", "lift_token_ids", "lift_values"]):
        length_R = pc.fill_null(pc.list_value_length(batch["lift_token_ids"]), 0).to_numpy()
        feature_R = np.repeat(batch["feature"].to_numpy(), length_R)
        yield (
            pc.list_flatten(batch["lift_token_ids"]).to_numpy(),
            feature_R,
            pc.list_flatten(batch["lift_values"]).to_numpy(),
        )


def _joined(
    parts: Iterator[tuple[pa.Array, pa.Array, pa.Array]],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    found = list(parts)
    token, feature, value = zip(*found, strict=True) if found else ((), (), ())
    return (
        np.concatenate([np.empty(0, np.int32), *token]).astype(np.int32),
        np.concatenate([np.empty(0, np.int32), *feature]).astype(np.int32),
        np.concatenate([np.empty(0, np.float32), *value]).astype(np.float32),
    )
