"""Two shares: how likely counts are, whether one differs from another by more than is tolerated, and intervals.

Shape legend: I things that are looked at.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, xlog1py, xlogy

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]

_STEPS = 60  # of a bisection: down to the last bit


class Segments(NamedTuple):
    """Texts before a change and since, and those of them in which something happened."""

    num_before_I: Ints
    yes_before_I: Ints
    num_I: Ints
    yes_I: Ints
    start_I: Ints  # text of the stream that the change is taken to have begun at


def log_mixture(yes_I: Ints, num_I: Ints, prior_yes: float = 0.5, prior_no: float = 0.5) -> Reals:
    """Log of the probability of a sequence, averaged over all shares by a Beta prior."""
    log_I: Reals = betaln(yes_I + prior_yes, num_I - yes_I + prior_no) - betaln(prior_yes, prior_no)
    return log_I


def log_likelihood(yes_I: Ints, num_I: Ints, share_I: Reals) -> Reals:
    """Log of the probability of a sequence, by the share of each."""
    log_I: Reals = xlogy(yes_I, share_I) + xlog1py(num_I - yes_I, -share_I)
    return log_I


def log_most(yes_I: Ints, num_I: Ints) -> Reals:
    """The largest log of the probability of a sequence that any share gives."""
    return log_likelihood(yes_I, num_I, yes_I / np.maximum(num_I, 1))


def log_beyond(found: Segments, ratio: float, priors: tuple[float, float]) -> Reals:
    """Log of the evidence that the odds changed by more than a ratio, up or down, at one beginning of the change [I].

    Universal inference again: the counts by mixtures of their own, over the most that any two shares give whose odds
    are no further apart. Of two-sample e-values that know no share this is the closed form.

    Args:
        found: texts before and since.
        ratio: at least 1.
        priors: of the Beta mixture of the share before.
    """
    alone_I = log_mixture(found.yes_before_I, found.num_before_I, *priors) + log_mixture(found.yes_I, found.num_I)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart_I = _odds(found.yes_I, found.num_I) / _odds(found.yes_before_I, found.num_before_I)
    bound_I = np.where(apart_I > 1, ratio, 1 / ratio)
    is_beyond_I = np.where(apart_I > 1, apart_I > ratio, apart_I < 1 / ratio)
    tied_I = _log_most_tied(found, bound_I)
    log_I: Reals = np.where(is_beyond_I, alone_I - tied_I, -np.inf)
    return log_I


def interval(yes_I: Ints, num_I: Ints, log_needed: float) -> tuple[Reals, Reals]:
    """Shares that a mixture is not so much likelier than: a confidence sequence (Robbins 1970; Howard et al. 2021).

    Args:
        yes_I: in how many texts it happened.
        num_I: of how many.
        log_needed: log of one over the error.
    """
    most_I = log_mixture(yes_I, num_I) - log_needed
    middle_I = yes_I / np.maximum(num_I, 1)
    low_I = _crossing(yes_I, num_I, most_I, np.zeros(len(yes_I)), middle_I)
    high_I = _crossing(yes_I, num_I, most_I, np.ones(len(yes_I)), middle_I)
    return low_I, high_I


def _crossing(yes_I: Ints, num_I: Ints, least_I: Reals, far_I: Reals, near_I: Reals) -> Reals:
    """Between a share that is too unlikely and one that is not, where that changes; ``far_I`` where nothing is."""
    for _ in range(_STEPS):
        middle_I = (far_I + near_I) / 2
        is_likely_I = log_likelihood(yes_I, num_I, middle_I) >= least_I
        near_I = np.where(is_likely_I, middle_I, near_I)
        far_I = np.where(is_likely_I, far_I, middle_I)
    return (far_I + near_I) / 2


def _odds(yes_I: Ints, num_I: Ints) -> Reals:
    odds_I: Reals = yes_I / (num_I - yes_I).astype(np.float64)
    return odds_I


def _log_most_tied(found: Segments, ratio_I: Reals) -> Reals:
    """The most that two shares give whose odds are a ratio apart.

    The share before, p, solves ``num_before * p + num * q(p) = yes``, where q is p with odds times the ratio: a
    quadratic equation, of which one root lies between 0 and 1.
    """
    yes_I = (found.yes_before_I + found.yes_I).astype(np.float64)
    more_I = ratio_I - 1
    a_I = found.num_before_I * more_I
    b_I = found.num_before_I + found.num_I * ratio_I - yes_I * more_I
    root_I = np.sqrt(np.maximum(b_I**2 + 4 * a_I * yes_I, 0))
    share_I = np.clip(2 * yes_I / (b_I + root_I), 0, 1)  # the form that loses no digits where a is small
    odds_I = ratio_I * share_I
    now_I = odds_I / (1 - share_I + odds_I)
    before_I = log_likelihood(found.yes_before_I, found.num_before_I, share_I)
    return before_I + log_likelihood(found.yes_I, found.num_I, now_I)
