"""Thresholds for a rate of false positives, and what is known of a rate from counts.

Of n texts that are drawn like those to come, the k-th largest value is exceeded by the next one with probability at
most k / (n + 1), whatever the values are spread like (conformal prediction; Vovk, Gammerman and Shafer 2005). So the
threshold for a rate is the k-th largest, with k = rate x (n + 1) rounded down; where that is 0, n is too small.

Shape legend: N texts or tokens, W columns.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Values = NDArray[np.float32]


def rank_for(rate: float, count: int) -> int:
    """Which of the largest values is the threshold, from 1; 0: there are too few for the rate."""
    return math.floor(rate * (count + 1) + 1e-9)


def least_for(rate: float) -> int:
    """How many texts a rate takes at least."""
    return math.ceil(1 / rate - 1 - 1e-9)


def threshold_for(value_N: Values, rate: float) -> float:
    """The value that at most this share of further ones exceeds.

    Raises:
        ValueError: there are too few values.
    """
    rank = rank_for(rate, len(value_N))
    if rank < 1:
        message = f"{len(value_N)} values are too few for a rate of {rate:g}"
        raise ValueError(message)
    return float(np.partition(value_N, len(value_N) - rank)[len(value_N) - rank])


def interval(count: int, of: int, confidence: float) -> tuple[float, float]:
    """The interval of a share that was counted (Clopper and Pearson 1934); 0 to 1 where nothing was counted."""
    if not of:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return low, high


def upper_bound(count: int, of: int, confidence: float) -> float:
    """What a share that was counted is below, at a confidence (one-sided, Clopper and Pearson 1934)."""
    return float(beta.ppf(confidence, count + 1, of - count)) if count < of else 1.0


def upper_bound_by_document(count_N: Values, of_N: Values, confidence: float, resamples: int, seed: int) -> float:
    """The same for tokens, which come in documents: by bootstrap over documents.

    Where no document has any, the bound is that of a document with one, over the tokens of a document.

    Args:
        count_N: of each document, tokens above.
        of_N: its tokens.
        confidence: of the bound.
        resamples: of the documents.
        seed: of the draws.
    """
    if not count_N.any():
        return min(upper_bound(0, len(count_N), confidence) / max(float(of_N.mean()), 1.0), 1.0)
    draw = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        drawn = draw.integers(0, len(count_N), len(count_N))
        rates.append(float(count_N[drawn].sum()) / max(float(of_N[drawn].sum()), 1.0))
    return float(np.quantile(rates, confidence))
