"""Which features are worth seeing first: one figure from 0 to 1, of score, coherence and density.

    base = (2 known gain + coherence) / 3
    worth = base + (1 - base) known context / 2

- ``gain``: how far the explanation that gave the label rises above its control, (score - control) / (1 - control).
  The score is the lower end of its 95% interval on held-out documents; the control is that of an explanation shuffled
  over features, or chance where none was scored. 0 without a score.
- ``known``: how far that can be known, n / (n + 20) for n held-out tokens or examples that the feature fires on: the
  interval of a score on one or two of them has no width.
- ``context``: how far the program's F1 rises above that of the best bare set of tokens; 0 where one was not scored.
  More than a detector of single tokens is what people want to see first.
- ``coherence``: how alike the top contexts are; 0 where it was not measured. Of a feature that fires fewer than five
  times, and so has no more contexts, as many fifths of it.

A dense feature is worth a quarter of it. One that fires a tenth as often, or less, is worth the whole; between them it
goes with the logarithm of the density, since what fires on one token in twenty is of grammar more than of a subject.
Each near-duplicate of one that is worth more is worth a quarter. One that never fires is worth nothing. Of features
that are worth the same the denser comes first, as where find tries them.

Shape legend: F features.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.features import FeatureSet

Values = NDArray[np.float64]

_PUT_DOWN = 0.25
_HALF_KNOWN = 20  # held-out firings by which a score counts half
_FEWEST = 5  # contexts from which coherence counts whole
DIGITS = 3  # of worth: features that differ by less are worth the same


class Standing(NamedTuple):
    """How well the explanation of each feature holds, and what stands for knowing nothing."""

    score_F: Values  # lower end of the interval; NaN without a score
    control_F: Values
    firing_F: Values  # held-out tokens or examples that it fires on
    context_F: Values  # by how much the program's F1 is above that of a bare set of tokens


class Worth(NamedTuple):
    """What each feature is worth, and what it is put down for."""

    worth_F: Values
    like_F: NDArray[np.int64]  # of a near-duplicate, the feature of its group that is worth most; -1 for others
    density_F: Values  # share of the tokens that it fires on

    def first(self, count: int | None) -> NDArray[np.int64]:
        """Numbers of the features that are worth most, ascending; None: all."""
        return np.sort(np.lexsort((-self.density_F, -self.worth_F.round(DIGITS)))[:count])


def weigh(features: FeatureSet, standing: Standing | None, dense_above: float) -> Worth:
    """What each feature is worth.

    Args:
        features: what was found.
        standing: of their explanations, where there are any.
        dense_above: share of the tokens above which a feature is dense.
    """
    count_F, density_F = _filled(features, "count"), _filled(features, "density")
    worth_F = _filled(features, "coherence").clip(0, 1) * (count_F / _FEWEST).clip(0, 1) / 3
    if standing is not None:
        known_F = _known(standing)
        worth_F += 2 * known_F * _gain(standing) / 3
        worth_F += (1 - worth_F) * known_F * np.nan_to_num(standing.context_F).clip(0, 1) / 2
    worth_F *= _rarity(density_F, dense_above)
    worth_F[count_F == 0] = 0
    like_F = _likes(worth_F, _filled(features, "group", -1).astype(np.int64))
    worth_F[like_F >= 0] *= _PUT_DOWN
    return Worth(worth_F, like_F, density_F)


def _rarity(density_F: Values, dense_above: float) -> Values:
    """From a quarter for dense features to 1 for those that fire a tenth as often."""
    tenfold_F = np.log10(dense_above / np.maximum(density_F, 1e-12)).clip(0, 1)
    return _PUT_DOWN + (1 - _PUT_DOWN) * tenfold_F


def _known(standing: Standing) -> Values:
    firing_F = np.nan_to_num(standing.firing_F)
    return firing_F / (firing_F + _HALF_KNOWN)


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
