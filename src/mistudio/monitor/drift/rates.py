"""The statistic: sequential tests of whether something happens more or less often in texts than it used to.

For each of H things (a feature fires; a column is above a cut) a text says yes or no. The null hypothesis is that all
texts, those of the reference included, are exchangeable: the share p is the same all along, and unknown. The
alternative is that from some text j on, also unknown, it is another share q. With N texts so far, k of them yes, the
evidence for a change at j is::

    E_j = m(x_1..x_{j-1}) * prod_{t>=j} q_t(x_t) / max_p p(x_1..x_N)

m is the mixture of all p by a Beta prior. The numerator is a probability of the data, and the denominator is at least
their probability under the null hypothesis, whatever p is: so E_j is an e-process (universal inference: Wasserman,
Ramdas, Balakrishnan 2020; for exchangeable bits Ramdas, Ruf, Larsson, Koolen 2022), at every moment at most 1 in
expectation, and nothing has to be known of p. The sum over all j, as Shiryaev and Roberts have it (e-detectors: Shin,
Ramdas, Rinaldo 2024), needs no list of them::

    R_N = (R_{N-1} + 1) * q_N(x_N) / m(x_N | x_1..x_{N-1}),     sum_j E_j = R_N * m(x_1..x_N) / max_p p(x_1..x_N)

An alarm comes where that sum, averaged over several q, reaches a threshold B; then R starts at 0 again. Each j counts
towards one alarm, and until that it is at most 1 in expectation: so of N texts before a change, no more than N / B
false alarms are to be expected, for every N. With B = H * ``texts_per_false_alarm`` that holds for all H together,
however they depend on each other.

What happens in a text changes its own entries alone. Those of the others are brought up to date when they are next
needed, by a bound from below of what the texts in between would have made of them: it makes no test less valid.

Shape legend: H things that are tested, G bets on how they changed, A those that happened in a text, I any of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift.shares import Segments, log_mixture, log_most

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Bets: the odds of a share that the estimate is moved by, and how much of the mixture each gets. What never happened
# may happen in one text of a thousand or in one of ten next, and four bets divide that. `_LEAST` is what a smaller
# estimate is taken for, so that bets on what is rare are on shares that some hundred texts can show.
_RATIO_G = np.array([1 / 6, 1 / 2, 2.0, 6.0, 20.0, 80.0])
_WEIGHT_G = np.array([0.05, 0.10, 0.15, 0.25, 0.30, 0.15])
_LEAST = 0.0005
PRIOR_YES, PRIOR_NO = 0.1, 0.5  # of the Beta mixture: most features fire in few texts
_MOST = 1e200  # of the evidence; more says no more
_MOST_LOG = 400.0
_LOOKED_AT = 4096  # first, of those that may have the most evidence
_QUIET = 3.0  # times the evidence that is there while nothing changes; below that a change has not begun

ARRAYS = ("yes_H", "left_H", "learned_H", "seen_H", "start_H", "since_H", "told_H", "evidence_HG")


@dataclass(eq=False)
class RateTests:
    """Tests of H shares in one stream of texts; made by :func:`new_tests`.

    Attributes:
        num_texts: of the stream, the reference left out.
        num_learned: texts that the estimates are made of, the reference included.
        yes_H: texts of these in which it happened.
        left_H: texts of these that are left out, since what is usual was set anew after them.
        learned_H: value of ``num_learned`` after the last text in which it happened.
        seen_H: value of ``num_texts`` then.
        start_H: text of the stream that a change is taken to have begun at.
        since_H: texts of the stream since then in which it happened.
        told_H: whether an alarm was raised that nobody has acknowledged.
        evidence_HG: R of each bet, as of text ``seen_H``.
    """

    num_texts: int
    num_learned: int
    yes_H: Ints
    left_H: Ints
    learned_H: Ints
    seen_H: Ints
    start_H: Ints
    since_H: Ints
    told_H: Bools
    evidence_HG: Reals

    @property
    def num_tests(self) -> int:
        """H."""
        return len(self.yes_H)

    def count(self, which_A: Ints) -> Reals:
        """Count a text in which these happened, each once; the log of the evidence of each after it [A]."""
        evidence_AG = self._caught_up(which_A)
        self._begin(which_A, evidence_AG)
        share_A = self._share(which_A)
        evidence_AG = np.minimum((evidence_AG + 1) * _moved(share_A) / share_A[:, None], _MOST)
        self.num_texts += 1
        self._note(which_A, evidence_AG)
        self.since_H[which_A] += 1
        return self._log_sum(which_A, evidence_AG)

    def learn(self, which_A: Ints) -> None:
        """Count a text towards what is usual alone."""
        self._note(which_A, self._caught_up(which_A))

    def log_evidence(self, which_I: Ints | None = None) -> Reals:
        """Log of the evidence that something changed, as of now [I]; None: of all."""
        which_I = np.arange(self.num_tests) if which_I is None else which_I
        return self._log_sum(which_I, self._caught_up(which_I))

    def most_log_evidence(self) -> Reals:
        """At least the log of the evidence of each [H], at a small part of its price.

        A text without it multiplies R + 1 by (1 - q) / (1 - share), which is at most 1 / (1 - share).
        """
        gap_H = (self.num_texts - self.seen_H).astype(np.float64)
        first_H = _estimate(self.yes_H, self.learned_H - self.left_H)
        with np.errstate(divide="ignore"):
            most_H: Reals = np.log(self.evidence_HG @ _WEIGHT_G + gap_H) - gap_H * np.log1p(-first_H)
        return most_H

    def largest(self, count: int) -> Ints:
        """Those with the most evidence, the most first."""
        most_H = self.most_log_evidence()
        number = min(max(_LOOKED_AT, count), self.num_tests)
        some_I = np.argpartition(-most_H, number - 1)[:number] if self.num_tests else np.empty(0, dtype=np.int64)
        log_e_I = self.log_evidence(some_I)
        if number < self.num_tests:  # whoever may have more than the last of those
            least = np.sort(log_e_I)[-count]
            some_I = np.flatnonzero(most_H >= least)
            log_e_I = self.log_evidence(some_I)
        ranked_I: Ints = some_I[np.lexsort((some_I, -log_e_I))][:count]
        return ranked_I

    def segments(self, which_I: Ints) -> "Segments":
        """Before and since the change that the evidence speaks for."""
        is_silent_I = self._is_quiet(which_I, self.evidence_HG[which_I])  # what there is came of texts without it
        start_I = np.where(is_silent_I, self.seen_H[which_I], self.start_H[which_I])
        num_I = self.num_texts - start_I
        yes_I = np.where(is_silent_I, 0, self.since_H[which_I])
        all_I = self.num_learned - self.left_H[which_I]
        return Segments(all_I - num_I, self.yes_H[which_I] - yes_I, num_I, yes_I, start_I)

    def restart(self, which_I: Ints) -> None:
        """Start some tests anew; what is usual stays what it was."""
        self.evidence_HG[which_I] = 0.0
        self.told_H[which_I] = False
        self.learned_H[which_I] = self.num_learned
        self.seen_H[which_I] = self.start_H[which_I] = self.num_texts
        self.since_H[which_I] = 0

    def renew(self, which_I: Ints, fresh: "RateTests") -> None:
        """Start some tests anew with what ``fresh`` ones have for usual."""
        self.yes_H[which_I] = fresh.yes_H[which_I]
        self.left_H[which_I] = self.num_learned - fresh.num_learned
        self.restart(which_I)

    def rebase(self, which_I: Ints) -> None:
        """Take what came since a change for what is usual; and start these tests anew."""
        found = self.segments(which_I)
        self.yes_H[which_I] = found.yes_I
        self.left_H[which_I] = self.num_learned - found.num_I
        self.restart(which_I)

    def _begin(self, which_A: Ints, evidence_AG: Reals) -> None:
        """Where there was no evidence of a change so far, it begins here, or with the texts without it before this."""
        is_quiet_A = self._is_quiet(which_A, evidence_AG)
        was_quiet_A = self._is_quiet(which_A, self.evidence_HG[which_A])
        start_A = np.where(was_quiet_A, self.seen_H[which_A], self.start_H[which_A])
        self.start_H[which_A] = np.where(is_quiet_A, self.num_texts, start_A)
        self.since_H[which_A] = np.where(is_quiet_A | was_quiet_A, 0, self.since_H[which_A])

    def _is_quiet(self, which_I: Ints, evidence_IG: Reals) -> Bools:
        level_I = 10 + 1 / np.maximum(self._share(which_I), _LEAST)
        quiet_I: Bools = evidence_IG @ _WEIGHT_G < _QUIET * level_I
        return quiet_I

    def _share(self, which_I: Ints) -> Reals:
        return _estimate(self.yes_H[which_I], self.num_learned - self.left_H[which_I])

    def _caught_up(self, which_I: Ints) -> Reals:
        """The evidence after the texts since, in which it did not happen; a bound from below [I, G].

        In those the estimate sinks from text to text: what it was first bounds the bet, what it is last the odds.
        """
        evidence_IG = self.evidence_HG[which_I]
        gap_I = self.num_texts - self.seen_H[which_I]
        (late,) = np.nonzero(gap_I)
        which, gap = which_I[late], gap_I[late, None].astype(np.float64)
        first = _estimate(self.yes_H[which], self.learned_H[which] - self.left_H[which])
        log_keep = np.log1p(-_moved(first)) - np.log1p(-self._share(which))[:, None]
        log_kept = np.minimum(gap * log_keep, _MOST_LOG)
        each = np.where(log_keep == 0, -1.0, log_keep)
        summed = np.where(log_keep == 0, gap, np.exp(each) * np.expm1(log_kept) / np.expm1(each))
        evidence_IG[late] = np.minimum(evidence_IG[late] * np.exp(log_kept) + summed, _MOST)
        return evidence_IG

    def _note(self, which_A: Ints, evidence_AG: Reals) -> None:
        self.num_learned += 1
        self.yes_H[which_A] += 1
        self.learned_H[which_A] = self.num_learned
        self.seen_H[which_A] = self.num_texts
        self.evidence_HG[which_A] = evidence_AG

    def _log_sum(self, which_I: Ints, evidence_IG: Reals) -> Reals:
        """Log of the sum over all beginnings of a change, averaged over the bets [I]."""
        yes_I = self.yes_H[which_I]
        learned_I = self.num_learned - self.left_H[which_I]
        mixture_I = log_mixture(yes_I, learned_I, PRIOR_YES, PRIOR_NO)
        with np.errstate(divide="ignore"):
            evidence_I: Reals = np.log(evidence_IG @ _WEIGHT_G)
        return evidence_I + mixture_I - log_most(yes_I, learned_I)


def new_tests(yes_H: Ints, num_reference: int) -> RateTests:
    """Tests of what happened in so many texts of a reference."""
    none_H = np.zeros(len(yes_H), dtype=np.int64)
    learned_H = np.full(len(yes_H), num_reference, dtype=np.int64)
    evidence_HG = np.zeros((len(yes_H), len(_RATIO_G)))
    return RateTests(
        num_texts=0,
        num_learned=num_reference,
        yes_H=yes_H.astype(np.int64),
        left_H=none_H,
        learned_H=learned_H,
        seen_H=none_H.copy(),
        start_H=none_H.copy(),
        since_H=none_H.copy(),
        told_H=np.zeros(len(yes_H), dtype=np.bool_),
        evidence_HG=evidence_HG,
    )


def _estimate(yes_I: Ints, num_I: Ints) -> Reals:
    """The share that the mixture expects of the next text."""
    share_I: Reals = (yes_I + PRIOR_YES) / (num_I + PRIOR_YES + PRIOR_NO)
    return share_I


def _moved(share_I: Reals) -> Reals:
    """The shares that are bet on [I, G]."""
    odds_I = np.maximum(share_I, _LEAST) / (1 - share_I)
    odds_IG = odds_I[:, None] * _RATIO_G
    moved_IG: Reals = odds_IG / (1 + odds_IG)
    return moved_IG
