"""From activations of a new version of a model to those of the old one, without labels.

Fitted on tokens of texts that both have read. Three kinds of map, from the stiffest to the freest: a shift alone, a
rotation (orthogonal Procrustes, Schönemann 1966) and ridge regression; whichever predicts texts that were left out of
the fit best. Realigning probes in this way repaired every case that could be repaired in arXiv 2606.15980.

Shape legend: N tokens, D width of the hook point.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Realigned:
    """A map of activations of one hook point: ``x_old = x_new @ weight_DD + shift_D``.

    Attributes:
        kind: shift, rotation or ridge.
        weight_DD: float64.
        shift_D: float64.
        unexplained: share of the variance of the old activations that it does not explain, on texts left out.
        unexplained_as_is: the same of the new activations as they are.
    """

    kind: str
    weight_DD: Reals
    shift_D: Reals
    unexplained: float
    unexplained_as_is: float

    def __call__(self, acts_ND: Tensor) -> Tensor:
        """Activations of the new version, as the old one would have had them."""
        weight_DD = torch.from_numpy(self.weight_DD).to(acts_ND.device, torch.float32)
        return acts_ND @ weight_DD + torch.from_numpy(self.shift_D).to(acts_ND.device, torch.float32)


def realign(
    new_ND: NDArray[np.float32],
    old_ND: NDArray[np.float32],
    is_fitting_N: NDArray[np.bool_],
    ridges: Sequence[float],
) -> Realigned:
    """The map that predicts best what it was not fitted on.

    Args:
        new_ND: activations of the new version.
        old_ND: those of the old one, on the same tokens.
        is_fitting_N: tokens that maps are fitted on; the others choose between them.
        ridges: strengths, over the mean variance of a component.
    """
    new, old = new_ND.astype(np.float64), old_ND.astype(np.float64)
    held_new, held_old = new[~is_fitting_N], old[~is_fitting_N]
    best: Realigned | None = None
    as_is = unexplained(held_new, held_old)
    for kind, weight_DD, shift_D in _candidates(new[is_fitting_N], old[is_fitting_N], ridges):
        left = unexplained(held_new @ weight_DD + shift_D, held_old)
        if best is None or left < best.unexplained:
            best = Realigned(kind, weight_DD, shift_D, left, as_is)
    assert best is not None  # noqa: S101 -- there is always the shift
    return best


def unexplained(found_ND: Reals, expected_ND: Reals) -> float:
    """Share of the variance that a prediction leaves."""
    total = float(((expected_ND - expected_ND.mean(axis=0)) ** 2).sum())
    return float(((found_ND - expected_ND) ** 2).sum() / total) if total else 0.0


def _candidates(new_ND: Reals, old_ND: Reals, ridges: Sequence[float]) -> Iterator[tuple[str, Reals, Reals]]:
    mean_new, mean_old = new_ND.mean(axis=0), old_ND.mean(axis=0)
    centred_new, centred_old = new_ND - mean_new, old_ND - mean_old
    width = new_ND.shape[1]
    yield "shift", np.eye(width), mean_old - mean_new
    crossed_DD = centred_new.T @ centred_old
    left_DD, _, right_DD = np.linalg.svd(crossed_DD)
    rotation_DD = left_DD @ right_DD
    yield "rotation", rotation_DD, mean_old - mean_new @ rotation_DD
    squared_DD = centred_new.T @ centred_new
    mean_variance = float(np.trace(squared_DD)) / width
    for ridge in ridges:
        weight_DD = np.linalg.solve(squared_DD + ridge * max(mean_variance, 1e-12) * np.eye(width), crossed_DD)
        yield "ridge", weight_DD, mean_old - mean_new @ weight_DD
