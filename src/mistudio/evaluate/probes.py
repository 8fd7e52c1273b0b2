"""Linear probes on a few latents: selection, fit, and figures with intervals.

For each problem the k latents whose means differ most between the classes are taken (Gurnee et al. 2023,
"Finding neurons in a haystack", arXiv:2305.01610; SAEBench's sparse probing does the same), standardised, and
given to a logistic regression. Selection and fit see training documents alone. Classes weigh the same however
many documents they have, so that 0.5 is chance for balanced accuracy and AUROC, whatever the problem.

Shape legend: P documents, F features (latents), K chosen columns, R bootstrap resamples, G groups of equal score.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from mistudio.evaluate.pooling import Passage

METRICS = ("accuracy", "balanced_accuracy", "auroc")
_MAX_ITERATIONS = 1000
_RESAMPLES_AT_ONCE = 100


class Problem(NamedTuple):
    """Tell one class from the others of its task."""

    task: str
    label: str
    train_P: NDArray[np.int64]  # which of the training documents
    train_is_P: NDArray[np.bool_]
    heldout_P: NDArray[np.int64]
    heldout_is_P: NDArray[np.bool_]


class Fit(NamedTuple):
    """A fitted probe: its scores on held-out documents, and the weight of each standardised column."""

    scores_P: NDArray[np.float64]
    weights_K: NDArray[np.float64]


def find_problems(
    train: Sequence[Passage], heldout: Sequence[Passage], min_documents: int, max_classes: int
) -> list[Problem]:
    """One problem for a task with two labels; for one with more, each label against the rest of the task.

    Labels with fewer than ``min_documents`` documents on either side of the split are left out; of many, the
    ``max_classes`` most frequent are kept.
    """
    problems = []
    for task in sorted({passage.task for passage in train}):
        seen, heldout_seen = (Counter(p.label for p in side if p.task == task) for side in (train, heldout))
        enough = [label for label in sorted(seen) if min(seen[label], heldout_seen[label]) >= min_documents]
        labels = sorted(sorted(enough, key=lambda label: -seen[label])[:max_classes])
        train_P, heldout_P = (_places(side, task, labels) for side in (train, heldout))
        for label in labels[1:] if len(labels) == 2 else labels if len(labels) > 2 else []:
            is_label = [
                np.array([side[place].label == label for place in places], dtype=np.bool_)
                for side, places in ((train, train_P), (heldout, heldout_P))
            ]
            problems.append(Problem(task, label, train_P, is_label[0], heldout_P, is_label[1]))
    return problems


def _places(passages: Sequence[Passage], task: str, labels: Sequence[str]) -> NDArray[np.int64]:
    found = [place for place, passage in enumerate(passages) if passage.task == task and passage.label in labels]
    return np.array(found, dtype=np.int64)


def select_latents(latents_PF: sparse.csr_array, is_P: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The latents whose means over the two classes differ most, strongest first [K]."""
    difference_F = np.abs(latents_PF[is_P].mean(axis=0) - latents_PF[~is_P].mean(axis=0))
    return np.argsort(-np.asarray(difference_F).ravel(), kind="stable")[:count]


def fit_probe(train_PK: NDArray[np.float32], is_P: NDArray[np.bool_], heldout_PK: NDArray[np.float32]) -> Fit:
    """Fit a logistic regression on standardised columns, and score held-out documents."""
    mean_K, std_K = train_PK.mean(axis=0, dtype=np.float64), train_PK.std(axis=0, dtype=np.float64)
    std_K[std_K == 0] = 1
    model = LogisticRegression(class_weight="balanced", max_iter=_MAX_ITERATIONS)
    model.fit((train_PK - mean_K) / std_K, is_P)
    return Fit(model.decision_function((heldout_PK - mean_K) / std_K), model.coef_[0])


def resampled_figures(
    scores_P: NDArray[np.float64], is_P: NDArray[np.bool_], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Each of ``METRICS`` on the documents as they are, then on bootstrap resamples of them [3, 1 + R].

    Problems with as many documents draw the same resamples. A resample without one of the classes gives NaN.
    """
    count, generator = len(scores_P), np.random.default_rng(seed)
    figures = [_figures(np.ones((1, count)), scores_P, is_P)]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        weights_RP = generator.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        figures.append(_figures(weights_RP, scores_P, is_P))
    return np.concatenate(figures, axis=1)


def interval(draws_R: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95% of bootstrap draws."""
    low, high = np.nanquantile(draws_R, [0.025, 0.975])
    return float(low), float(high)


def _figures(
    weights_RP: NDArray[np.float64], scores_P: NDArray[np.float64], is_P: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The metrics with each document counted ``weights_RP`` times [3, R]."""
    right_P = (scores_P > 0) == is_P
    positive_R, negative_R = weights_RP @ is_P, weights_RP @ ~is_P
    order_P = np.argsort(scores_P, kind="stable")
    first_G = np.flatnonzero(np.diff(scores_P[order_P], prepend=-np.inf))
    positive_RG = np.add.reduceat((weights_RP * is_P)[:, order_P], first_G, axis=1)
    negative_RG = np.add.reduceat((weights_RP * ~is_P)[:, order_P], first_G, axis=1)
    below_RG = negative_RG.cumsum(axis=1) - negative_RG / 2  # negatives with a lower score; a tie counts half
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc_R = (positive_RG * below_RG).sum(axis=1) / (positive_R * negative_R)
        hits_R, rejections_R = weights_RP @ (right_P & is_P) / positive_R, weights_RP @ (right_P & ~is_P) / negative_R
    return np.stack([weights_RP @ right_P / weights_RP.sum(axis=1), (hits_R + rejections_R) / 2, auroc_R])


def shuffled(problem: Problem, times: int, seed: int) -> Iterator[Problem]:
    """The problem with the labels of its training documents permuted, several times."""
    generator = np.random.default_rng(seed)
    for _ in range(times):
        yield problem._replace(train_is_P=generator.permutation(problem.train_is_P))
