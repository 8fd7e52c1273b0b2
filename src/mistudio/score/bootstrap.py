"""Figures with 95% intervals, by bootstrap over documents.

Tokens of one document are alike, so documents are what is drawn again, never tokens. Every figure here is a
function of sums over documents: a draw only changes how often each document's sums count, and a thousand draws
are one matrix product. Draws in which a figure is not defined (no positives, say) are left out of its interval.

Shape legend: N tokens or examples, P documents, C columns that are summed, R draws.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # sums [R, C] to figures [R], NaN where not defined

_TAILS = (2.5, 97.5)


class Estimate(NamedTuple):
    """A figure and its 95% interval; NaN where it is not defined, or where one document cannot tell."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(float("nan"), float("nan"), float("nan"))


def estimate(
    documents_N: NDArray[np.int64], columns_NC: Floats, statistic: Statistic, resamples: int, seed: int = 0
) -> Estimate:
    """A function of the sums of ``columns_NC``, with its interval over the documents that the rows belong to."""
    if not len(documents_N):
        return UNDEFINED
    names_P, place_N = np.unique(documents_N, return_inverse=True)
    sums_PC = np.zeros((len(names_P), columns_NC.shape[1]))
    np.add.at(sums_PC, place_N, columns_NC)
    counts_RP = draw_counts(len(names_P), resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _with_interval(
            float(statistic(sums_PC.sum(0, keepdims=True))[0]), statistic(counts_RP @ sums_PC), names_P
        )


def mean(values_N: Floats, documents_N: NDArray[np.int64], resamples: int, seed: int = 0) -> Estimate:
    """The mean of some values."""
    columns_NC = np.stack([values_N, np.ones_like(values_N)], axis=1)
    return estimate(documents_N, columns_NC, lambda sums_RC: sums_RC[:, 0] / sums_RC[:, 1], resamples, seed)


def balanced_accuracy(
    right_N: NDArray[np.bool_],
    positive_N: NDArray[np.bool_],
    documents_N: NDArray[np.int64],
    resamples: int,
    seed: int = 0,
) -> Estimate:
    """The mean of the shares of positives and of negatives that were got right."""

    def statistic(sums_RC: Floats) -> Floats:
        return (sums_RC[:, 0] / sums_RC[:, 1] + sums_RC[:, 2] / sums_RC[:, 3]) / 2

    columns = (right_N & positive_N, positive_N, right_N & ~positive_N, ~positive_N)
    return estimate(documents_N, np.stack(columns, axis=1).astype(float), statistic, resamples, seed)


def f1(
    predicted_N: NDArray[np.bool_],
    positive_N: NDArray[np.bool_],
    documents_N: NDArray[np.int64],
    resamples: int,
    seed: int = 0,
) -> Estimate:
    """The harmonic mean of precision and recall; not defined where nothing is positive."""

    def statistic(sums_RC: Floats) -> Floats:
        value_R = 2 * sums_RC[:, 0] / (sums_RC[:, 1] + sums_RC[:, 2])
        return np.where(sums_RC[:, 2] > 0, value_R, np.nan)

    columns = (predicted_N & positive_N, predicted_N, positive_N)
    return estimate(documents_N, np.stack(columns, axis=1).astype(float), statistic, resamples, seed)


def correlation(
    left_N: Floats, right_N: Floats, documents_N: NDArray[np.int64], resamples: int, seed: int = 0
) -> Estimate:
    """Pearson's correlation; 0 where the prediction, left, is constant, and not defined where the truth, right, is."""
    if not len(left_N):
        return UNDEFINED
    x_N, y_N = _standard(left_N), _standard(right_N)

    def statistic(sums_RC: Floats) -> Floats:
        n, x, y, xx, yy, xy = sums_RC.T
        variance_x, variance_y = n * xx - x * x, n * yy - y * y
        flat_x, flat_y = (variance <= 1e-9 * n * n for variance in (variance_x, variance_y))
        value_R = (n * xy - x * y) / np.sqrt(np.where(flat_x, 1, variance_x) * np.where(flat_y, 1, variance_y))
        return np.where(flat_y, np.nan, np.where(flat_x, 0.0, value_R))

    columns = (np.ones_like(x_N), x_N, y_N, x_N * x_N, y_N * y_N, x_N * y_N)
    return estimate(documents_N, np.stack(columns, axis=1), statistic, resamples, seed)


def auroc(
    scores_N: Floats,
    positive_N: NDArray[np.bool_],
    documents_N: NDArray[np.int64],
    resamples: int,
    seed: int = 0,
) -> Estimate:
    """The share of pairs of a positive and a negative in which the positive has the higher score; ties count half.

    The pairs won are counted once for each pair of documents, so a draw costs P x P, however many tokens there are.
    """
    if not len(scores_N):
        return UNDEFINED
    names_P, place_N = np.unique(documents_N, return_inverse=True)
    num = len(names_P)
    wins_PP = _wins(scores_N, positive_N, place_N, num)
    pairs_PP = np.outer(*(np.bincount(place_N[chosen_N], minlength=num) for chosen_N in (positive_N, ~positive_N)))
    counts_RP = draw_counts(num, resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        won_R, all_R = (np.einsum("rp,rp->r", counts_RP @ of_PP, counts_RP) for of_PP in (wins_PP, pairs_PP))
        return _with_interval(float(wins_PP.sum() / np.float64(pairs_PP.sum())), won_R / all_R, names_P)


@lru_cache(maxsize=32)
def draw_counts(num_documents: int, resamples: int, seed: int) -> Floats:
    """How often each document comes in each draw of as many documents, with replacement [R, P]."""
    draw = np.random.default_rng(seed)
    counts_RP = draw.multinomial(num_documents, np.full(num_documents, 1 / num_documents), size=resamples)
    counts = counts_RP.astype(np.float64)
    counts.setflags(write=False)
    return counts


def _wins(scores_N: Floats, positive_N: NDArray[np.bool_], place_N: NDArray[np.int64], num: int) -> Floats:
    """Pairs that the positives of one document win over the negatives of another [P, P]."""
    score_A, place_A = scores_N[positive_N], place_N[positive_N]
    wins_PP = np.zeros((num, num))
    for other in np.unique(place_N[~positive_N]):
        below = np.sort(scores_N[~positive_N & (place_N == other)])
        won_A = (np.searchsorted(below, score_A, "left") + np.searchsorted(below, score_A, "right")) / 2
        wins_PP[:, other] = np.bincount(place_A, weights=won_A, minlength=num)
    return wins_PP


def _standard(values_N: Floats) -> Floats:
    """Mean 0 and standard deviation 1, so that sums of squares lose no digits."""
    centred_N: Floats = values_N - values_N.mean(dtype=np.float64)
    return centred_N / (float(centred_N.std()) or 1.0)


def _with_interval(value: float, drawn_R: Floats, names_P: NDArray[np.int64]) -> Estimate:
    defined = drawn_R[np.isfinite(drawn_R)]
    if np.isnan(value) or len(names_P) < 2 or not len(defined):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, _TAILS)
    return Estimate(value, float(low), float(high))
