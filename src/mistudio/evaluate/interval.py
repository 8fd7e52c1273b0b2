"""How well the share of the loss that is recovered is known, and when that is enough.

CE recovered is R = 1 - N / D: N is what a prediction loses on average with the reconstruction spliced in, D with
zeros, each against the clean run of the same tokens. To first order (the delta method) a document moves R by

    u = -a / D + (N / D²) b,    a = (n - N m) / M over those run with the reconstruction,  b likewise with zeros,

with n its summed extra loss, m its predictions and M all predictions. The variance of R is the sum of u² over
documents, which are independent where their sequences are not; the interval is its root, times Student's t for one
degree of freedom less than documents, to either side. Of fewer than ten documents it is too rough itself to end by.

The error of D counts by N / D = 1 - R alone: where R is 0.99, one hundredth of it. So zeros are run on as many
sequences, of all in their random order, as keep its part below a third of the half-width that is asked for, where it
adds 6% to the interval; and a random control on as many as tell it to four times that, or to a tenth of what it loses.

A divergence that is known of some sequences is held against one that is known of others. Loss in a way of running is
told of all sequences by the clean loss of all: clean loss where it was not run counts as it is. A divergence has no
clean run to be held against, but goes along with the clean loss too (a prediction that is sure loses most), so its mean
is moved by that, as steeply as the sequences tell that were run.

Shape legend: S sequences in the order in which they were drawn.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEAST_SEQUENCES = 32  # below that, roots of sums of squares say little
LEAST_DOCUMENTS = 10  # to end by the interval that they give
_LEAST_TO_FIT = 3  # sequences for a line: with two it goes through both
_INSIDE = 0.95
_MOST_TIMES = 1e9  # as many tokens again; beyond any corpus, and a plain number still
_NORMAL = 1.959964  # 95% of a normal distribution lie within
_PART_OF_ZEROS = 1 / 3
_CONTROL_FACTOR = 4.0
_CONTROL_SHARE = 0.1
_FARTHER = 1.1  # than is needed by the spread so far, which is known no better itself

Column = NDArray[np.float64]


class Run(NamedTuple):
    """What each sequence lost in one way of running it; NaN where it was not run so."""

    loss_S: Column  # sums over its predictions, in nats
    kl_S: Column


class Drawn(NamedTuple):
    """What is known of each sequence that was run."""

    predictions_S: Column
    document_S: NDArray[np.int64]
    clean_S: Column  # summed loss of the model as it is


class Mean(NamedTuple):
    """A mean over predictions, and by how much each document moves it."""

    value: float
    pull_S: Column  # of each sequence; those of a document belong together

    @property
    def half_width(self) -> float:
        """Half of the 95% interval, taking each sequence as a document of its own."""
        return _NORMAL * float(np.sqrt((self.pull_S**2).sum()))


def extra_loss(drawn: Drawn, run: Run) -> Mean:
    """Mean of what a way of running adds to the loss of a prediction."""
    return _mean(run.loss_S - drawn.clean_S, drawn.predictions_S)


def mean_kl(drawn: Drawn, run: Run) -> float:
    """Mean divergence of a prediction of all drawn sequences, in nats, also where only some were run so."""
    mean = _mean(run.kl_S, drawn.predictions_S).value
    run_S = ~np.isnan(run.kl_S) & (drawn.predictions_S > 0)
    if run_S.all() or run_S.sum() < _LEAST_TO_FIT:
        return mean
    weight_N = drawn.predictions_S[run_S]
    clean_N, kl_N = drawn.clean_S[run_S] / weight_N, run.kl_S[run_S] / weight_N
    clean = float(np.average(clean_N, weights=weight_N))
    spread = float((weight_N * (clean_N - clean) ** 2).sum())
    slope = float((weight_N * (clean_N - clean) * (kl_N - mean)).sum()) / spread if spread else 0.0
    of_all = float(drawn.clean_S.sum() / drawn.predictions_S.sum())
    return max(mean + slope * (of_all - clean), 0.0)


def recovered_half_width(drawn: Drawn, zeros: Run, own: Run) -> float | None:
    """Half of the 95% interval of CE recovered; None where zeroing costs nothing, or one document says nothing."""
    lost, gap = extra_loss(drawn, own), extra_loss(drawn, zeros)
    if gap.value <= 0:
        return None
    pull_S = -lost.pull_S / gap.value + lost.value / gap.value**2 * gap.pull_S
    pull_C = np.bincount(drawn.document_S, weights=pull_S)
    number = len(np.unique(drawn.document_S))
    if number < 2:
        return None
    deviation = float(np.sqrt((pull_C**2).sum() * number / (number - 1)))
    return float(stdtrit(number - 1, 0.5 + _INSIDE / 2)) * deviation


def are_zeros_enough(drawn: Drawn, zeros: Run, own: Run, half_width: float) -> bool:
    """Whether running more sequences with zeros would not narrow the interval by much."""
    lost, gap = extra_loss(drawn, own), extra_loss(drawn, zeros)
    if gap.value <= 0 or _num_run(zeros) < LEAST_SEQUENCES:
        return False
    return abs(lost.value) / gap.value**2 * gap.half_width <= _PART_OF_ZEROS * half_width


def is_control_enough(drawn: Drawn, zeros: Run, control: Run, half_width: float) -> bool:
    """Whether a control is known as well as it has to be, for something to be held against."""
    lost, gap = extra_loss(drawn, control), extra_loss(drawn, zeros)
    if gap.value <= 0 or _num_run(control) < LEAST_SEQUENCES:
        return False
    enough = max(_CONTROL_FACTOR * half_width, _CONTROL_SHARE * abs(lost.value) / gap.value)
    return lost.half_width / gap.value <= enough


def more_needed(tokens: int, reached: float | None, half_width: float, documents: int = LEAST_DOCUMENTS) -> int:
    """Tokens to run after the first ``tokens``, of so many documents, until the interval is narrow enough; 0: it is."""
    if reached is None or documents < LEAST_DOCUMENTS:
        return tokens
    if reached <= half_width:
        return 0
    times = min(reached / half_width, _MOST_TIMES)
    return int(tokens * min(_FARTHER * times**2 - 1, _MOST_TIMES)) + 1


def _mean(total_S: Column, predictions_S: Column) -> Mean:
    run_S = ~np.isnan(total_S)
    predictions = float(predictions_S[run_S].sum())
    if not predictions:
        return Mean(0.0, np.zeros(len(total_S)))
    value = float(total_S[run_S].sum()) / predictions
    return Mean(value, np.where(run_S, total_S - value * predictions_S, 0.0) / predictions)


def _num_run(run: Run) -> int:
    return int((~np.isnan(run.loss_S)).sum())
