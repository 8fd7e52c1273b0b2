"""The statistic of ``mistudio.monitor.drift.rates`` on long streams of resampled texts, compiled: for simulation alone.

The same arithmetic, step by step in place of closed forms, and without what only alerts need. ``check`` holds it to the
library's.

Shape legend: H features, G bets, P texts that are drawn from, T texts of a stream, V thresholds.
"""

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift import rates

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


@numba.njit(cache=False)  # type: ignore[misc,unused-ignore]
def _log_mixture_over_most(yes: int, num: int, a: float, b: float) -> float:
    log = math.lgamma(yes + a) + math.lgamma(num - yes + b) - math.lgamma(num + a + b)
    log -= math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    if 0 < yes < num:
        log -= yes * math.log(yes / num) + (num - yes) * math.log(1 - yes / num)
    return log


@numba.njit(cache=False)  # type: ignore[misc,unused-ignore]
def _stream(
    drawn_T: Any, first_P: Any, feature_I: Any, yes_H: Any, reference: int, ratio_G: Any, weight_G: Any, least: float,
    a: float, b: float, log_least: float,
) -> tuple[Any, Any]:  # fmt: skip
    """Largest log evidence of each feature in the stream, and the evidence at its end [H], [H, G]."""
    num_features, num_bets = len(yes_H), len(ratio_G)
    evidence_HG = np.zeros((num_features, num_bets))
    seen_H = np.zeros(num_features, dtype=np.int64)
    most_H = np.full(num_features, -np.inf)
    yes_H = yes_H.copy()
    for place in range(len(drawn_T)):
        learned = reference + place
        for at in range(first_P[drawn_T[place]], first_P[drawn_T[place] + 1]):
            h = feature_I[at]
            share = (yes_H[h] + a) / (learned + a + b)
            first = (yes_H[h] + a) / (reference + seen_H[h] + a + b)
            gap, total = place - seen_H[h], 0.0
            for g in range(num_bets):
                odds = max(first, least) / (1 - first) * ratio_G[g]
                keep = (1 - odds / (1 + odds)) / (1 - share)
                value = evidence_HG[h, g]
                for _ in range(gap):
                    value = (value + 1) * keep
                odds = max(share, least) / (1 - share) * ratio_G[g]
                value = min((value + 1) * (odds / (1 + odds)) / share, 1e200)
                evidence_HG[h, g] = value
                total += weight_G[g] * value
            yes_H[h] += 1
            seen_H[h] = place + 1
            if math.log(total) > log_least:
                log_e = math.log(total) + _log_mixture_over_most(yes_H[h], learned + 1, a, b)
                most_H[h] = max(most_H[h], log_e)
    return most_H, evidence_HG


class Pool:
    """Texts to draw from, as lists of the features that fired in each."""

    def __init__(self, texts: Sequence[Ints], num_features: int) -> None:
        self.texts, self.num_features = texts, num_features
        self._first_P = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
        self._feature_I = np.concatenate(texts).astype(np.int64)
        self.fires_PH = np.zeros((len(texts), num_features), dtype=np.float32)
        for number, text in enumerate(texts):
            self.fires_PH[number, text] = 1

    def reference(self, draw: np.random.Generator, num_texts: int) -> Ints:
        """In how many of so many drawn texts each feature fires [H]."""
        times_P = draw.multinomial(num_texts, np.full(len(self.texts), 1 / len(self.texts)))
        return np.rint(times_P.astype(np.float64) @ self.fires_PH).astype(np.int64)

    def stream(self, drawn_T: Ints, yes_H: Ints, reference: int, log_least: float) -> tuple[Reals, Reals]:
        """Largest log evidence of each feature, where it is above a bound, and R at the end."""
        own = rates._RATIO_G, rates._WEIGHT_G, rates._LEAST, rates.PRIOR_YES, rates.PRIOR_NO
        found: tuple[Reals, Reals] = _stream(drawn_T, self._first_P, self._feature_I, yes_H, reference, *own, log_least)
        return found

    def check(self, draw: np.random.Generator, num_texts: int = 300) -> float:
        """The largest relative difference to the library's R after a stream."""
        yes_H = self.reference(draw, 5000)
        drawn_T = draw.integers(len(self.texts), size=num_texts)
        _, evidence_HG = self.stream(drawn_T, yes_H, 5000, -math.inf)
        tests = rates.new_tests(yes_H, 5000)
        for number in drawn_T.tolist():
            tests.count(self.texts[number])
        return float(np.max(np.abs(evidence_HG - tests.evidence_HG) / np.maximum(tests.evidence_HG, 1e-300)))
