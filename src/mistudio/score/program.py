"""The program score: run the program on held-out tokens, and compare with where the feature fires.

Two definitions of firing: above the threshold that the program was searched for, and any activation at all; metrics of
the second end in ``_any``. The metric ``fires`` is on how many held-out tokens the feature does. Intervals come from
drawing documents again: every figure is a function of sums over documents, so all draws of a figure are one matrix
product.

Shape legend: N tokens, P documents, C columns that are summed, L levels of a prediction, R draws, A firing tokens.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.firings import Firings
from mistudio.explain.programs.columns import Context
from mistudio.explain.programs.language import Program
from mistudio.score.bootstrap import draw_counts

Floats = NDArray[np.float64]

FIRES = "fires"  # a count, not a share
METRICS = ("f1", "precision", "recall", "balanced_accuracy", "auroc", "correlation", FIRES)
ANY = "_any"
_LEVELS = 24
_TAILS = (0.025, 0.975)


class Figure(NamedTuple):
    """A figure and its 95% interval; NaN where it is not defined, or where no documents were drawn again."""

    metric: str
    value: float
    low: float
    high: float


class Judged(NamedTuple):
    """A program's predictions on held-out tokens: where it says that the feature fires, and how strongly."""

    token_R: NDArray[np.int64]  # ascending
    value_R: NDArray[np.float32]


class ProgramScorer:
    """Scores programs on one set of held-out tokens.

    Args:
        context: the tokens.
        firings: the features' activations over them.
        maxima: the largest activation of each feature on training documents [F].
        threshold: a feature fires above this fraction of its maximum.
        resamples: bootstrap draws of the documents; 0: no intervals.
        seed: of the draws.
    """

    def __init__(
        self,
        context: Context,
        firings: Firings,
        maxima: NDArray[np.float32],
        threshold: float,
        resamples: int,
        seed: int = 0,
    ) -> None:
        self.context, self.firings, self.maxima, self.threshold = context, firings, maxima, threshold
        self._document_N = np.unique(context.tokens.document_N, return_inverse=True)[1]
        self._num_documents = int(self._document_N.max(initial=-1)) + 1
        self._tokens_P = np.bincount(self._document_N).astype(np.float64)
        none = np.empty((0, self._num_documents))
        self._counts_RP = draw_counts(self._num_documents, resamples, seed) if resamples else none

    def run(self, program: Program) -> Judged:
        """What a program says of the tokens."""
        value_N = program.predict(self.context)
        token_R = np.flatnonzero(value_N)
        return Judged(token_R, value_N[token_R])

    def score(self, judged: Judged, feature: int) -> Iterator[Figure]:
        """All figures of a program's predictions, as those of a feature, for both definitions of firing."""
        token_A, value_A = self.firings.of(feature)
        level_R, num_levels = _levels(judged.value_R)
        found: dict[str, Floats] = {}
        for suffix, least in (("", self.threshold * float(self.maxima[feature])), (ANY, 0.0)):
            fires_A = token_A[value_A > least]
            hit_R = np.isin(judged.token_R, fires_A, assume_unique=True)
            found |= {name + suffix: values for name, values in self._decisions(judged, fires_A, hit_R).items()}
            found[f"auroc{suffix}"] = self._auroc(judged, level_R, num_levels, fires_A, hit_R)
        found["correlation"] = self._correlation(judged, token_A, value_A)
        return _figures(found)

    def _sums(self, token_R: NDArray[np.integer], weight_R: NDArray[np.floating] | None = None) -> Floats:
        """What the tokens of each document sum to [P]."""
        return np.bincount(self._document_N[token_R], weights=weight_R, minlength=self._num_documents).astype(float)

    def _drawn(self, columns_PC: Floats) -> Floats:
        """The sums over all documents, and below them those of each draw [1 + R, C]."""
        return np.concatenate([columns_PC.sum(axis=0, keepdims=True), self._counts_RP @ columns_PC])

    def _decisions(self, judged: Judged, fires_A: NDArray[np.int32], hit_R: NDArray[np.bool_]) -> dict[str, Floats]:
        columns_PC = np.stack(
            [self._sums(judged.token_R[hit_R]), self._sums(judged.token_R), self._sums(fires_A), self._tokens_P], axis=1
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            hit, predicted, fires, tokens = self._drawn(columns_PC).T
            fires = np.where(fires > 0, fires, np.nan)  # nothing to be found: no figure is defined
            return {
                FIRES: fires,
                "f1": 2 * hit / (predicted + fires),
                "precision": np.where(predicted > 0, hit / predicted, 0.0) + 0 * fires,
                "recall": hit / fires,
                "balanced_accuracy": (hit / fires + 1 - (predicted - hit) / (tokens - fires)) / 2,
            }

    def _auroc(
        self,
        judged: Judged,
        level_R: NDArray[np.int64],
        num_levels: int,
        fires_A: NDArray[np.int32],
        hit_R: NDArray[np.bool_],
    ) -> Floats:
        """The share of pairs of a firing and another token that the program puts in the right order; ties count half.

        Predictions are put into a few levels, so that the pairs are counted by level; 0 is one of them.
        """
        shape = (self._num_documents, num_levels)
        flat_R = self._document_N[judged.token_R] * num_levels + level_R
        fires_PL = np.bincount(flat_R[hit_R], minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        all_PL = np.bincount(flat_R, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
        fires_PL[:, 0] = self._sums(fires_A) - fires_PL.sum(axis=1)
        all_PL[:, 0] = self._tokens_P - all_PL.sum(axis=1)
        fires_RL, all_RL = self._drawn(fires_PL), self._drawn(all_PL)
        others_RL = all_RL - fires_RL
        below_RL = np.cumsum(others_RL, axis=1) - others_RL / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            value_R: Floats = (fires_RL * below_RL).sum(axis=1) / (fires_RL.sum(axis=1) * others_RL.sum(axis=1))
        return value_R

    def _correlation(self, judged: Judged, token_A: NDArray[np.int32], value_A: NDArray[np.float32]) -> Floats:
        """Pearson's correlation of prediction and activation over all tokens."""
        predicted_R, true_A = judged.value_R.astype(np.float64), value_A.astype(np.float64)
        scale = max(float(true_A.max(initial=0)), float(predicted_R.max(initial=0)), 1e-30)
        predicted_R, true_A = predicted_R / scale, true_A / scale
        _, at_R, at_A = np.intersect1d(judged.token_R, token_A, assume_unique=True, return_indices=True)
        columns_PC = np.stack(
            [
                self._tokens_P,
                self._sums(judged.token_R, predicted_R),
                self._sums(token_A, true_A),
                self._sums(judged.token_R, predicted_R**2),
                self._sums(token_A, true_A**2),
                self._sums(token_A[at_A], predicted_R[at_R] * true_A[at_A]),
            ],
            axis=1,
        )
        n, x, y, xx, yy, xy = self._drawn(columns_PC).T
        variance_x, variance_y = n * xx - x * x, n * yy - y * y
        with np.errstate(divide="ignore", invalid="ignore"):
            value_R = (n * xy - x * y) / np.sqrt(variance_x * variance_y)
        return np.where(variance_y > 0, np.where(variance_x > 0, value_R, 0.0), np.nan)


def _levels(value_R: NDArray[np.float32]) -> tuple[NDArray[np.int64], int]:
    """Predictions as levels from 1 up, as many tokens in each as go; level 0 is for no prediction."""
    distinct, code_R, counts = np.unique(value_R, return_inverse=True, return_counts=True)
    if len(distinct) > _LEVELS:
        level = np.minimum((np.cumsum(counts) - counts) * _LEVELS // counts.sum(), _LEVELS - 1)
        code_R = np.unique(level, return_inverse=True)[1][code_R]
    return code_R.astype(np.int64) + 1, int(code_R.max(initial=-1)) + 2


def _figures(found: dict[str, Floats]) -> Iterator[Figure]:
    """Of each figure the first value, with the interval that the others span where they are defined."""
    names, value_F = list(found), np.stack([values[0] for values in found.values()])
    drawn_FR = np.sort(np.stack([values[1:] for values in found.values()]), axis=1)  # NaN comes last
    num_F = np.isfinite(drawn_FR).sum(axis=1)
    ends = (
        [_quantile(drawn_FR, num_F, tail) for tail in _TAILS]
        if drawn_FR.shape[1]
        else [np.full(len(names), np.nan)] * 2
    )
    for name, value, low, high in zip(names, value_F.tolist(), *(end.tolist() for end in ends), strict=True):
        is_defined = not np.isnan(value)
        yield Figure(name, value, low if is_defined else value, high if is_defined else value)


def _quantile(sorted_FR: Floats, num_F: NDArray[np.int64], fraction: float) -> Floats:
    """A quantile of the first ``num_F`` values of each row; NaN where there are fewer than two."""
    place_F = np.maximum(num_F - 1, 0) * fraction
    below_F = place_F.astype(np.int64)
    above_F = np.minimum(below_F + 1, np.maximum(num_F - 1, 0))
    rows = np.arange(len(num_F))
    low_F, high_F = sorted_FR[rows, below_F], sorted_FR[rows, above_F]
    return np.where(num_F > 1, low_F + (high_F - low_F) * (place_F - below_F), np.nan)
