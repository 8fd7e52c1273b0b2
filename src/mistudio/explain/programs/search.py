"""The search for a feature's program: from a set of tokens, step by step to more conditions and branches.

Sets are learnt on one part of the training documents, and what to learn is chosen on the other: a step is taken
where it raises F1 there by more than it adds in length. The program's sets are then learnt anew on all of them.

Shape legend: N tokens, F features, A tokens that a feature fires on, V token ids, Q flags.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.config import SearchConfig
from mistudio.explain.programs.columns import CURRENT, HEAD, INDUCED, NEXT, PREVIOUS, SECOND, Context
from mistudio.explain.programs.fitting import (
    PAIR,
    Codes,
    Filled,
    Fitted,
    Learnt,
    Shape,
    Table,
    Taken,
    Target,
    best_set,
    discount_of,
    fit,
    fit_step,
    loose_codes,
)

_TOKENS_ALONE: tuple[Shape, ...] = (Shape((Learnt(CURRENT),)),)
_FLAGS_TRIED = 2
_FINAL_FACTOR = 8  # sets are learnt anew on so many times the tokens that were searched on
# A model cannot see the next token: what it seems to say has to pay for itself twice.
_COSTS = {CURRENT: 1.0, PAIR: 2.0, NEXT: 2.5}
_SET_COST = 1.5  # a set says less in more words than a flag
_TENFOLD_COST = 0.25  # of a set, for each factor of ten in its members


class Found(NamedTuple):
    """A program for one feature, and how it fits the training documents that chose it."""

    program: list[Filled]
    token_set: list[Filled]
    f1: float  # on the documents that chose, before its sets were learnt anew on all
    token_set_f1: float


class _Part(NamedTuple):
    """The tokens of one part that may matter to a feature."""

    table: Table
    target: Target


class Searcher:
    """Searches programs for features, over the tokens of one context.

    Args:
        context: tokens of training documents.
        choosing_N: which tokens are kept for choosing.
        config: how far to search.
    """

    def __init__(self, context: Context, choosing_N: NDArray[np.bool_], config: SearchConfig) -> None:
        self.config = config
        self.whole = Table.of(context)
        self._is_learning_N = ~choosing_N
        columns = {name: self.whole.columns[name] for name in (CURRENT, PREVIOUS)}
        size = self.whole.sizes[CURRENT]
        self._seen = {name: np.bincount(codes_N, minlength=size) for name, codes_N in columns.items()}
        self._learning_seen = {
            name: np.bincount(codes_N[self._is_learning_N], minlength=size) for name, codes_N in columns.items()
        }

    def search(self, fires_A: NDArray[np.int64]) -> Found:
        """The program of a feature that fires on these tokens, ascending."""
        learning_A = fires_A[self._is_learning_N[fires_A]]
        token_set_f1 = self._token_set_f1(fires_A, learning_A)
        token_set = self._token_set(fires_A, self._seen[CURRENT])
        if len(learning_A) < self.config.min_fires or token_set_f1 >= self.config.good_enough:
            return Found([token_set], [token_set], token_set_f1, token_set_f1)
        near_R = np.flatnonzero(self._near(fires_A, learning_A))
        is_learning_R = self._is_learning_N[near_R]
        num_learning = len(learning_A)
        learning = self._part(near_R[is_learning_R], fires_A, num_learning, self.config.max_tokens)
        choosing = self._part(near_R[~is_learning_R], fires_A, len(fires_A) - num_learning, self.config.max_tokens)
        shapes, f1 = self._climb(learning, choosing)
        if shapes == _TOKENS_ALONE:
            return Found([token_set], [token_set], token_set_f1, token_set_f1)
        both = self._part(near_R, fires_A, len(fires_A), _FINAL_FACTOR * self.config.max_tokens)
        program = [branch for branch in fit(both.table, both.target, shapes).branches if _holds(branch)]
        return Found(program, [token_set], f1, token_set_f1)

    def _token_set(self, fires_A: NDArray[np.int64], seen_V: Codes) -> Filled:
        """The best set of tokens for some firings, of all tokens there are."""
        fired_V = self._fired(CURRENT, fires_A)
        codes = best_set(fired_V, seen_V, discount_of(CURRENT), Taken(), len(fires_A))
        return Filled(_TOKENS_ALONE[0], (codes,))

    def _token_set_f1(self, fires_A: NDArray[np.int64], learning_A: NDArray[np.int64]) -> float:
        """F1 of a set of tokens learnt from one part, on the other."""
        learning_seen = self._learning_seen[CURRENT]
        (codes,) = self._token_set(learning_A, learning_seen).sets
        hits = self._fired(CURRENT, fires_A)[codes].sum() - self._fired(CURRENT, learning_A)[codes].sum()
        held = self._seen[CURRENT][codes].sum() - learning_seen[codes].sum()
        return float(2 * hits / max(held + len(fires_A) - len(learning_A), 1))

    def _fired(self, column: str, fires_A: NDArray[np.int64]) -> Codes:
        return np.bincount(self.whole.columns[column][fires_A], minlength=len(self._seen[column]))

    def _near(self, fires_A: NDArray[np.int64], learning_A: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens are like those that a feature fires on; all others are no part of any program [N]."""
        near_N = np.zeros(len(self.whole), dtype=bool)
        for column in (CURRENT, PREVIOUS):
            learnt = loose_codes(self._fired(column, learning_A), self._learning_seen[column])
            known = loose_codes(self._fired(column, fires_A), self._seen[column])
            near_N |= self.whole.lookup(Learnt(column), np.union1d(learnt, known))
        return near_N

    def _part(self, rows: NDArray[np.int64], fires_A: NDArray[np.int64], num_fires: int, most: int) -> _Part:
        """Those of ``rows``, at most so many, and the firings among them; beyond them, as many as are their share."""
        stride = max(-(-len(rows) // most), 1)
        outside = num_fires - len(np.intersect1d(rows, fires_A, assume_unique=True))
        rows = rows[::stride]
        row_A = np.flatnonzero(np.isin(rows, fires_A, assume_unique=True))
        return _Part(self.whole.rows(rows), Target(row_A, len(row_A) + outside // stride))

    def _climb(self, learning: _Part, choosing: _Part) -> tuple[tuple[Shape, ...], float]:
        """From a set of tokens take the best step for as long as one pays."""
        fitted = fit(learning.table, learning.target, _TOKENS_ALONE)
        f1 = _f1(choosing, fitted.branches)
        while True:
            best, best_f1, best_worth = fitted, f1, f1
            learnt_f1 = learning.target.f1(fitted.held(len(learning.table)))
            for place, shape in self._steps(fitted, learning):
                tried = fit_step(learning.table, learning.target, fitted, place, shape)
                saved = self.config.min_gain * (_cost(fitted) - _cost(tried))
                if learning.target.f1(tried.held(len(learning.table))) <= learnt_f1 - max(saved, 0):
                    continue
                tried_f1 = _f1(choosing, tried.branches)
                worth = tried_f1 + saved
                if worth > best_worth:
                    best, best_f1, best_worth = tried, tried_f1, worth
            if best is fitted:
                return tuple(branch.shape for branch in fitted.branches), f1
            fitted, f1 = best, best_f1

    def _steps(self, fitted: Fitted, learning: _Part) -> Iterator[tuple[int, Shape]]:
        """Branches to try, and their places: with one condition less or more, or new."""
        for place, branch in enumerate(fitted.branches):
            for shorter in _shorter(branch.shape):
                yield place, shorter
            if branch.shape.num_conditions < self.config.max_conditions:
                for longer in _longer(branch, learning):
                    yield place, longer
        if len(fitted.branches) < self.config.max_branches:
            for shape in _new_branches(learning):
                yield len(fitted.branches), shape


def _f1(part: _Part, program: Sequence[Filled]) -> float:
    return part.target.f1(part.table.any_holds(program))


def _shorter(shape: Shape) -> Iterator[Shape]:
    """The branch with one condition less; of a branch with one nothing would be left."""
    if shape.num_conditions > 1:
        for place in range(len(shape.sets)):
            yield shape._replace(sets=(*shape.sets[:place], *shape.sets[place + 1 :]))
        for place in range(len(shape.flags)):
            yield shape._replace(flags=(*shape.flags[:place], *shape.flags[place + 1 :]))


def _longer(filled: Filled, learning: _Part) -> Iterator[Shape]:
    """The branch with one condition more."""
    shape = filled.shape
    columns = {learnt.column for learnt in shape.sets}
    if columns & {CURRENT, PAIR}:
        for column in (PREVIOUS, SECOND, NEXT, INDUCED, HEAD):
            if column not in columns and not (column == PREVIOUS and PAIR in columns):
                yield shape._replace(sets=(*shape.sets, Learnt(column)))
                yield shape._replace(sets=(*shape.sets, Learnt(column, negated=True)))
    for flag in _promising_flags(learning, filled):
        if flag[0] not in dict(shape.flags):
            yield shape._replace(flags=(*shape.flags, flag))


def _new_branches(learning: _Part) -> Iterator[Shape]:
    for sets in ((PAIR,), (PREVIOUS,), (CURRENT, PREVIOUS), (CURRENT, SECOND), (CURRENT, NEXT), (CURRENT, HEAD)):
        yield Shape(tuple(Learnt(column) for column in sets))
    yield Shape((Learnt(CURRENT), Learnt(PREVIOUS, negated=True)))
    alone = Filled(Shape((Learnt(CURRENT),)), (np.arange(learning.table.sizes[CURRENT]),))
    for flag in _promising_flags(learning, alone):
        yield Shape((Learnt(CURRENT),), (flag,))


def _promising_flags(learning: _Part, filled: Filled) -> list[tuple[str, bool]]:
    """The flags that would raise F1 most as further conditions of a branch, with its current tokens chosen anew."""
    table, target = learning.table, learning.target
    within_N = table.holds(filled)
    fires = target.row_A[within_N[target.row_A]]
    if not len(fires):
        return []
    codes_N = table.columns[CURRENT]
    codes = np.unique(codes_N[fires])
    place_V = np.full(table.sizes[CURRENT], -1)
    place_V[codes] = np.arange(len(codes))
    rows = np.flatnonzero(within_N & (place_V[codes_N] >= 0))
    fired_CQ, all_fired_C = _by_code(place_V[codes_N[fires]], table.flags_NQ[fires])
    seen_CQ, all_seen_C = _by_code(place_V[codes_N[rows]], table.flags_NQ[rows])
    scores: dict[tuple[str, bool], float] = {}
    for wanted in (True, False):
        fired, seen = (fired_CQ, seen_CQ) if wanted else (all_fired_C - fired_CQ, all_seen_C - seen_CQ)
        best_Q = _best_f1(fired, seen, target.num_fires).tolist()
        scores |= {(name, wanted): f1 for name, f1 in zip(table.flag_names, best_Q, strict=True)}
    return sorted(scores, key=lambda flag: -scores[flag])[:_FLAGS_TRIED]


def _by_code(code_R: NDArray[np.int64], flags_RQ: NDArray[np.uint8]) -> tuple[Codes, Codes]:
    """How often each code comes with each flag [C, Q], and how often at all [C, 1]."""
    order = np.argsort(code_R, kind="stable")
    firsts = np.flatnonzero(np.diff(code_R[order], prepend=-1))
    with_flag_CQ = np.add.reduceat(flags_RQ[order], firsts, axis=0, dtype=np.int64)
    return with_flag_CQ, np.bincount(code_R)[:, None]


def _best_f1(fired_CQ: Codes, seen_CQ: Codes, num_fires: int) -> NDArray[np.float64]:
    """F1 of the best set of codes under each flag [Q]."""
    gain_CQ = fired_CQ - discount_of(CURRENT)
    order_CQ = np.argsort(-gain_CQ / np.maximum(seen_CQ, 1), axis=0, kind="stable")
    hits_CQ = np.cumsum(np.take_along_axis(gain_CQ, order_CQ, 0), axis=0)
    held_CQ = np.cumsum(np.take_along_axis(seen_CQ, order_CQ, 0), axis=0)
    best_Q: NDArray[np.float64] = (2 * hits_CQ / (held_CQ + num_fires)).max(axis=0)
    return best_Q


def _cost(fitted: Fitted) -> float:
    """Length of a program, in conditions: a set costs more the larger it is, half as much again with 100 members."""
    return sum(
        len(branch.shape.flags)
        + sum(
            _COSTS.get(learnt.column, _SET_COST) * (1 + math.log10(max(len(codes), 1)) * _TENFOLD_COST)
            for learnt, codes in zip(branch.shape.sets, branch.sets, strict=True)
        )
        for branch in fitted.branches
    )


def _holds(branch: Filled) -> bool:
    """Whether a branch holds of any token."""
    return all(learnt.negated or len(codes) for learnt, codes in zip(branch.shape.sets, branch.sets, strict=True))
