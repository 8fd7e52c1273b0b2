"""Thresholds for a rate of false positives (:mod:`mistudio.monitor.calibrate.ranks`), and what counts say of a rate.

Shape legend: N texts or tokens, W columns.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from mistudio.monitor.calibrate.ranks import rank_for

Values = NDArray[np.float32]


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
