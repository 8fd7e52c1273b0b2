"""In which order features are worth trying in the model, and how many of them a budget buys.

Both follow from counts, lengths and sizes alone, so that a recipe tries the same features on any machine.

Shape legend: F features, P contexts, K features in their order.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DENSE = 0.1  # share of all tokens from which a feature is tried after all others: its contexts tell little
_TFLOP = 1e12


class Bought(NamedTuple):
    """The features that a budget buys."""

    features: NDArray[np.int64]  # in their order [K]
    left_out: int  # features that it does not reach
    flop: float


NOTHING = Bought(np.empty(0, dtype=np.int64), 0, 0.0)


def order_of_worth(
    count_F: NDArray[np.int64], density_F: NDArray[np.float64], coherence_F: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Features that fire [K]: the most coherent first, the denser of like ones, and dense ones behind all others."""
    coherence_F = np.nan_to_num(coherence_F, nan=-1.0)
    order_F = np.lexsort((np.arange(len(count_F)), -density_F, -coherence_F, density_F >= DENSE))
    return order_F[count_F[order_F] > 0]


def buy(
    order_K: NDArray[np.int64], feature_P: NDArray[np.int64], flop_P: NDArray[np.float64], tflop: float | None
) -> Bought:
    """As many features as the budget reaches, in their order.

    Args:
        order_K: the features.
        feature_P: of each context that would be tried.
        flop_P: what it takes.
        tflop: the budget in 10^12 operations; None is no limit.
    """
    flop_F = np.bincount(feature_P, weights=flop_P, minlength=int(order_K.max(initial=0)) + 1)
    spent_K = flop_F[order_K].cumsum()
    count = len(order_K) if tflop is None else int(np.searchsorted(spent_K, tflop * _TFLOP, side="right"))
    return Bought(order_K[:count], len(order_K) - count, float(spent_K[count - 1]) if count else 0.0)
