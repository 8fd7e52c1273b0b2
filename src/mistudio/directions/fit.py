"""From activations of two classes to a direction, and how well it tells them apart on examples that it was not made of.

Two ways: the difference of the classes' means, and the normal of a logistic regression on standardised activations,
which looks at their spread too. Either is as long as the classes lie apart along it: adding it once takes the mean of
the negative examples to where the positive ones are.

Beside the figures of the direction stand those of directions drawn at random, and of directions made in the same way
after the labels of the fitting half were shuffled. Both are at 0.5 but for chance, which their intervals show.

Shape legend: E examples, D width of the hook point, R bootstrap resamples.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from mistudio.directions.config import DirectionConfig, Figure, Method
from mistudio.errors import InputError
from mistudio.evaluate.probes import METRICS, interval, resampled_figures

_MAX_ITERATIONS = 1000
_AUROC = METRICS.index("auroc")

Vector = NDArray[np.float64]


class Halves(NamedTuple):
    """The examples that a direction is made of, and those that it is tried on."""

    fitting_E: NDArray[np.int64]
    heldout_E: NDArray[np.int64]


class Fitted(NamedTuple):
    """A direction and its figures on the half that was held out."""

    vector_D: Vector
    auroc: Figure
    random_auroc: Figure
    shuffled_auroc: Figure


def split(is_positive_E: NDArray[np.bool_], seed: int) -> Halves:
    """Halves of each class, drawn at random; of an odd number the larger part is for fitting."""
    generator = np.random.default_rng(seed)
    parts: list[list[NDArray[np.int64]]] = [[], []]
    for of_class in (True, False):
        own = generator.permutation(np.flatnonzero(is_positive_E == of_class))
        half = (len(own) + 1) // 2
        parts[0].append(own[:half])
        parts[1].append(own[half:])
    return Halves(*(np.sort(np.concatenate(part)) for part in parts))


def fit_direction(
    acts_ED: NDArray[np.float32], is_positive_E: NDArray[np.bool_], config: DirectionConfig, seed: int
) -> Fitted:
    """Make a direction of one half of the examples, and try it on the other.

    Raises:
        InputError: the two classes do not differ.
    """
    halves = split(is_positive_E, seed)
    fitting_ED, heldout_ED = acts_ED[halves.fitting_E].astype(np.float64), acts_ED[halves.heldout_E].astype(np.float64)
    is_E, heldout_is_E = is_positive_E[halves.fitting_E], is_positive_E[halves.heldout_E]
    make = METHODS[config.method]

    def auroc(vector_D: Vector, resamples: int = 0) -> Vector:
        figures: Vector = resampled_figures(heldout_ED @ vector_D, heldout_is_E, resamples, seed)[_AUROC]
        return figures

    vector_D = scaled(make(fitting_ED, is_E, config.c), fitting_ED, is_E)
    value, *draws = auroc(vector_D, config.resamples)
    random = [auroc(each)[0] for each in _random(len(vector_D), config.controls, seed)]
    mixed = [auroc(make(fitting_ED, each, config.c))[0] for each in _shuffled(is_E, config.controls, seed)]
    return Fitted(vector_D, _figure(float(value), draws), _over_draws(random), _over_draws(mixed))


def scaled(vector_D: Vector, acts_ED: Vector, is_E: NDArray[np.bool_]) -> Vector:
    """The vector, as long as the means of the classes lie apart along it.

    Raises:
        InputError: they do not.
    """
    length = float(np.linalg.norm(vector_D))
    unit_D = vector_D / length if length else vector_D
    apart = float(unit_D @ mean_difference(acts_ED, is_E))
    if not apart > 0:
        message = (
            "The activations of positive and negative examples do not differ: take another hook point or examples."
        )
        raise InputError(message)
    return unit_D * apart


def mean_difference(acts_ED: Vector, is_E: NDArray[np.bool_], _c: float = 1.0) -> Vector:
    """The mean of the positive examples less that of the negative ones (Marks and Tegmark 2023, arXiv:2310.06824)."""
    difference_D: Vector = acts_ED[is_E].mean(axis=0) - acts_ED[~is_E].mean(axis=0)
    return difference_D


def logistic(acts_ED: Vector, is_E: NDArray[np.bool_], c: float) -> Vector:
    """The normal of a logistic regression on standardised activations, both classes with one weight."""
    std_D = acts_ED.std(axis=0)
    std_D[std_D == 0] = 1
    model = LogisticRegression(class_weight="balanced", C=c, max_iter=_MAX_ITERATIONS)
    model.fit((acts_ED - acts_ED.mean(axis=0)) / std_D, is_E)
    normal_D: Vector = model.coef_[0] / std_D
    return normal_D


METHODS: dict[Method, Callable[[Vector, NDArray[np.bool_], float], Vector]] = {
    "mean_difference": mean_difference,
    "logistic": logistic,
}


def _random(width: int, times: int, seed: int) -> Iterator[Vector]:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(width) for _ in range(times))


def _shuffled(is_E: NDArray[np.bool_], times: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    generator = np.random.default_rng(seed)
    return (generator.permutation(is_E) for _ in range(times))


def _over_draws(values: list[float]) -> Figure:
    """The mean of a control over its draws, and the middle 95% of them."""
    return _figure(float(np.mean(values)), values)


def _figure(value: float, draws: list[float]) -> Figure:
    low, high = interval(np.array(draws))
    return Figure(value=value, low=low, high=high)
