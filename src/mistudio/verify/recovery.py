"""How well latents recover what is known to be there: features with directions, or concepts with labels.

Features of a synthetic space are matched to latents one to one, such that the sum of their correlations is largest
(Kuhn 1955, the Hungarian method). Concepts of text are read off a group of a few latents, which is chosen and weighed
on some documents and measured on others.

Shape legend: T tokens, G true features, D width, F latents, K latents of a group.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from mistudio.evaluate.probes import fit_probe

FIRING_SHARE = 0.2  # of a latent's maximum; what is weaker counts as not firing
_TIE_DIGITS = 9


class Recovery(NamedTuple):
    """Means over the true features."""

    correlation: float  # of a feature and the latent matched to it
    cosine: float  # of a feature's direction and the nearest decoder direction
    f1: float  # of firing, of a feature and the latent matched to it; firing is above a fifth of the latent's maximum
    f1_any: float  # the same, with any activation as firing


class Group(NamedTuple):
    """A few latents that together tell a concept, and how well on held-out tokens."""

    latents: tuple[int, ...]
    auroc: float


class Firing(NamedTuple):
    """A latent whose firing tells a concept, and above what it counts as firing."""

    latent: int
    threshold: float
    f1: float  # on the tokens that it was chosen on

    def f1_on(self, latents_TF: NDArray[np.float32], is_T: NDArray[np.bool_]) -> float:
        """F1 of firing on some tokens."""
        fires_T1 = torch.from_numpy(latents_TF[:, self.latent] > self.threshold)[:, None]
        return float(firing_f1(torch.from_numpy(is_T)[:, None], fires_T1)[0])


@torch.no_grad()
def match(values_TG: Tensor, latents_TF: Tensor, directions_GD: Tensor, decoder_FD: Tensor) -> Recovery:
    """Match each true feature to one latent, and compare them on rows that nobody trained on."""
    correlation_GF = correlations(values_TG, latents_TF)
    feature_M, latent_M = linear_sum_assignment(correlation_GF.numpy(), maximize=True)
    missing = directions_GD.shape[0] - len(feature_M)  # features that no latent is left for count as not found
    cosine_GF = functional.normalize(directions_GD, dim=1) @ functional.normalize(decoder_FD, dim=1).T
    is_TM, latents_TM = values_TG[:, feature_M] > 0, latents_TF[:, latent_M]
    strong_TM = latents_TM > FIRING_SHARE * latents_TM.amax(dim=0)
    count = len(feature_M) + missing
    return Recovery(
        float(correlation_GF[feature_M, latent_M].sum()) / count,
        float(cosine_GF.amax(dim=1).mean()),
        float(firing_f1(is_TM, strong_TM).sum()) / count,
        float(firing_f1(is_TM, latents_TM > 0).sum()) / count,
    )


def correlations(values_TG: Tensor, latents_TF: Tensor) -> Tensor:
    """Pearson's correlation of every column with every other [G, F]; 0 where a column does not vary."""
    return _standardised(values_TG).T @ _standardised(latents_TF) / len(values_TG)


def firing_f1(is_TM: Tensor, fires_TM: Tensor) -> Tensor:
    """F1 of each column of predictions; 0 where nothing fires and nothing should [M]."""
    hits_M = (is_TM & fires_TM).sum(dim=0)
    return 2 * hits_M / (is_TM.sum(dim=0) + fires_TM.sum(dim=0)).clamp(min=1)


def auroc(scores_T: NDArray[np.floating], is_T: NDArray[np.bool_]) -> float:
    """Probability that a token of the concept scores above another one; a tie counts half. 0.5 without both classes."""
    positive = int(is_T.sum())
    negative = len(is_T) - positive
    if not positive or not negative:
        return 0.5
    _, rank_T = np.unique(np.round(scores_T.astype(np.float64), _TIE_DIGITS), return_inverse=True)
    hits_R = np.bincount(rank_T, weights=is_T)
    misses_R = np.bincount(rank_T, weights=~is_T)
    below_R = misses_R.cumsum() - misses_R / 2
    return float((hits_R * below_R).sum() / (positive * negative))


def best_single(train_TF: NDArray[np.float32], is_T: NDArray[np.bool_], candidates: NDArray[np.int64]) -> int:
    """The latent among ``candidates`` that alone tells a concept best on these tokens."""
    return int(candidates[int(np.argmax([auroc(train_TF[:, latent], is_T) for latent in candidates]))])


def best_firing(train_TF: NDArray[np.float32], is_T: NDArray[np.bool_]) -> Firing:
    """The latent whose firing above a fifth of its maximum has the best F1 on these tokens."""
    latents_TF = torch.from_numpy(train_TF)
    threshold_F = FIRING_SHARE * latents_TF.amax(dim=0).clamp(min=0)
    f1_F = firing_f1(torch.from_numpy(is_T)[:, None].expand(latents_TF.shape), latents_TF > threshold_F)
    best = int(f1_F.argmax())
    return Firing(best, float(threshold_F[best]), float(f1_F[best]))


def best_group(
    train_TF: NDArray[np.float32],
    is_T: NDArray[np.bool_],
    heldout_TF: NDArray[np.float32],
    heldout_is_T: NDArray[np.bool_],
    size: int = 4,
    shortlist: int = 16,
) -> tuple[Group, Group]:
    """The best single latent and the best group of at most ``size``, chosen and weighed on the training tokens.

    Latents join one after the other: the one whose addition to a least-squares fit explains most of what is left of
    the labels. The group's weights come from a logistic regression.

    Returns:
        The single latent and the group, measured on the held-out tokens.
    """
    single = best_single(train_TF, is_T, shortlisted(train_TF, is_T, shortlist))
    alone = Group((single,), auroc(heldout_TF[:, single], heldout_is_T))
    latents_K = forward_selection(train_TF, is_T, size)
    fit = fit_probe(train_TF[:, latents_K], is_T, heldout_TF[:, latents_K])
    return alone, Group(tuple(latents_K), auroc(fit.scores_P, heldout_is_T))


def shortlisted(train_TF: NDArray[np.float32], is_T: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The latents that correlate most with the labels [count]."""
    labels_T1 = torch.from_numpy(is_T.astype(np.float32))[:, None]
    strength_F = correlations(labels_T1, torch.from_numpy(train_TF))[0].abs()
    return strength_F.argsort(descending=True, stable=True)[:count].numpy()


def forward_selection(train_TF: NDArray[np.float32], is_T: NDArray[np.bool_], size: int) -> list[int]:
    """Latents that one after the other explain most of the labels, as orthogonal matching pursuit has it [K].

    Classes weigh the same, however rare the concept is.
    """
    weight_T = np.where(is_T, 0.5 / max(is_T.sum(), 1), 0.5 / max((~is_T).sum(), 1)).astype(np.float32)
    root_T1 = np.sqrt(weight_T)[:, None]
    columns_TF = (train_TF - weight_T @ train_TF) * root_T1
    norm_F = np.linalg.norm(columns_TF, axis=0)
    columns_TF /= np.where(norm_F > 0, norm_F, 1)
    target_T = np.where(is_T, 0.5, -0.5).astype(np.float32) * root_T1[:, 0]
    chosen: list[int] = []
    left_T = target_T
    for _ in range(min(size, columns_TF.shape[1])):
        gain_F = np.abs(columns_TF.T @ left_T)
        gain_F[chosen] = -1
        chosen.append(int(np.argmax(gain_F)))
        basis_TK = columns_TF[:, chosen]
        left_T = target_T - basis_TK @ np.linalg.lstsq(basis_TK, target_T, rcond=None)[0]
    return chosen


def _standardised(columns_TM: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1; zeros where a column does not vary."""
    centred_TM = columns_TM - columns_TM.mean(dim=0)
    std_M = centred_TM.square().mean(dim=0).sqrt()
    return centred_TM / torch.where(std_M > 0, std_M, torch.inf)
