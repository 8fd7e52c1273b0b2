"""Which features are worth seeing first: one figure from 0 to 1, of score, coherence and density.

    worth = (2 gain + coherence) / 3

- ``gain``: how far the explanation that gave the label rises above its control, (score - control) / (1 - control).
  The score is the lower end of its 95% interval on held-out documents; the control is that of an explanation shuffled
  over features, or chance where none was scored. 0 without a score.
- ``coherence``: how alike the top contexts are; 0 where it was not measured.

A dense feature is worth a quarter of it, and so is each near-duplicate of one that is worth more. One that never fires
is worth nothing.

Shape legend: F features.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.features import FeatureSet

Values = NDArray[np.float64]

_PUT_DOWN = 0.25


class Standing(NamedTuple):
    """How well the explanation of each feature holds, and what stands for knowing nothing."""

    score_F: Values  # lower end of the interval; NaN without a score
    control_F: Values


class Worth(NamedTuple):
    """What each feature is worth, and what it is put down for."""

    worth_F: Values
    like_F: NDArray[np.int64]  # of a near-duplicate, the feature of its group that is worth most; -1 for others

    def first(self, count: int | None) -> NDArray[np.int64]:
        """Numbers of the features that are worth most, ascending; None: all."""
        return np.sort(np.argsort(-self.worth_F, kind="stable")[:count])


def weigh(features: FeatureSet, standing: Standing | None, dense_above: float) -> Worth:
    """What each feature is worth.

    Args:
        features: what was found.
        standing: of their explanations, where there are any.
        dense_above: share of the tokens above which a feature is dense.
    """
    coherence_F = _filled(features, "coherence")
    gain_F = np.zeros(features.num_features) if standing is None else _gain(standing)
    worth_F = (2 * gain_F + coherence_F.clip(0, 1)) / 3
    worth_F[_filled(features, "density") > dense_above] *= _PUT_DOWN
    worth_F[_filled(features, "count") == 0] = 0
    like_F = _likes(worth_F, _filled(features, "group", -1).astype(np.int64))
    worth_F[like_F >= 0] *= _PUT_DOWN
    return Worth(worth_F, like_F)


def _gain(standing: Standing) -> Values:
    room_F = np.maximum(1 - standing.control_F, 1e-9)
    return np.nan_to_num((standing.score_F - standing.control_F) / room_F).clip(0, 1)


def _likes(worth_F: Values, group_F: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each feature of a group, but for the one that is worth most, the number of that one."""
    like_F = np.full(len(worth_F), -1, dtype=np.int64)
    grouped = np.flatnonzero(group_F >= 0)
    order = grouped[np.lexsort((-worth_F[grouped], group_F[grouped]))]
    _, firsts, places = np.unique(group_F[order], return_index=True, return_inverse=True)
    like_F[order] = order[firsts[places]]
    like_F[order[firsts]] = -1
    return like_F


def _filled(features: FeatureSet, name: str, missing: float = 0.0) -> Values:
    values_F: Values = features.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isnan(values_F), missing, values_F)
