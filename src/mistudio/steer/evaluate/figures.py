"""Figures of written texts: shares with their intervals, repetition, dose and response, and what strengths are for use.

Shape legend: N texts, S strengths.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_NORMAL = 1.959964  # 95% of a normal distribution lie within
_RUN = 3  # tokens that are repeated together


class Measured(NamedTuple):
    """A share of texts or a ratio, with its 95% interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


UNKNOWN = Measured(math.nan, math.nan, math.nan)


class ShipRange(NamedTuple):
    """Strengths around 0 with which text stays coherent; 0 to 0 where none is."""

    low: float
    high: float


def share(is_N: NDArray[np.bool_]) -> Measured:
    """The share of texts of which something holds (Wilson 1927); each text is of a document of its own."""
    count = len(is_N)
    if not count:
        return UNKNOWN
    value, z = float(np.mean(is_N)), _NORMAL**2 / count
    centre = (value + z / 2) / (1 + z)
    half = math.sqrt(z * value * (1 - value) + z * z / 4) / (1 + z)
    return Measured(value, max(centre - half, 0.0), min(centre + half, 1.0))


def repetition(texts: Sequence[Sequence[int]]) -> float:
    """The mean share of the token triples of a text that were in it before; NaN where no text has two."""
    shares = []
    for text in texts:
        triples = [tuple(text[place : place + _RUN]) for place in range(len(text) - _RUN + 1)]
        if len(triples) > 1:
            shares.append(1 - len(set(triples)) / len(triples))
    return float(np.mean(shares)) if shares else math.nan


def perplexity(losses: Sequence[NDArray[np.float64]]) -> float:
    """Of all tokens of some texts together, from the loss of each; NaN where there is none."""
    every = np.concatenate([np.zeros(0), *losses])
    return math.exp(min(float(every.mean()), 700.0)) if len(every) else math.nan


def perplexity_ratio(losses: Sequence[NDArray[np.float64]], plain: Sequence[NDArray[np.float64]]) -> Measured:
    """Perplexity of some texts over that of others, with its 95% interval by the spread of texts in each (Welch)."""
    value = perplexity(losses) / perplexity(plain)
    means = [np.array([loss.mean() for loss in some if len(loss)]) for some in (losses, plain)]
    if min(map(len, means)) < 2:
        return Measured(value, math.nan, math.nan)
    half = _NORMAL * math.sqrt(sum(float(mean_N.var(ddof=1)) / len(mean_N) for mean_N in means))
    return Measured(value, value * math.exp(-half), value * math.exp(half))


def dose_response(strengths: Sequence[float], rates: Sequence[float]) -> float:
    """Spearman's correlation of strength and what comes of it; NaN where either is always the same."""
    known = [pair for pair in zip(strengths, rates, strict=True) if not math.isnan(pair[1])]
    if len(known) < 2:
        return math.nan
    one_S, two_S = (rankdata(column) for column in zip(*known, strict=True))
    if np.ptp(one_S) == 0 or np.ptp(two_S) == 0:
        return math.nan
    return float(np.corrcoef(one_S, two_S)[0, 1])


def ship_range(strengths: Sequence[float], is_coherent: Sequence[bool]) -> ShipRange:
    """The strengths nearest to 0 on either side that are coherent without a gap."""
    pairs = sorted(zip(strengths, is_coherent, strict=True))

    def farthest(side: list[tuple[float, bool]]) -> float:
        found = 0.0
        for strength, coherent in side:
            if not coherent:
                break
            found = strength
        return found

    below = [pair for pair in reversed(pairs) if pair[0] < 0]
    return ShipRange(farthest(below), farthest([pair for pair in pairs if pair[0] > 0]))
