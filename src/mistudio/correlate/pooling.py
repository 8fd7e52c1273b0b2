"""The latents that are active on a text, each over all tokens that count.

Shape legend: A active (token, latent) pairs, L latents that are active anywhere in the text, T tokens.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.reading import Active


class Pooled(NamedTuple):
    """The latents that are active on a text; all others are zero on every token."""

    latent_L: NDArray[np.int64]  # ascending
    max_L: NDArray[np.float64]
    mean_L: NDArray[np.float64]  # over the tokens that count, zeros included
    fires_L: NDArray[np.int64]  # tokens that it is active on


def pooled(active: Active) -> Pooled:
    """Each latent over the tokens that count."""
    latent_L, place_A = np.unique(active.latent_A, return_inverse=True)
    max_L = np.zeros(len(latent_L))
    np.maximum.at(max_L, place_A, active.value_A)
    sum_L = np.bincount(place_A, weights=active.value_A, minlength=len(latent_L))
    fires_L = np.bincount(place_A, minlength=len(latent_L))
    return Pooled(latent_L, max_L, sum_L / max(active.num_counted, 1), fires_L)


def best_first(value_L: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the largest values, the largest first; of equal ones the first."""
    return np.argsort(-value_L, kind="stable")[:count]
