"""Filling in a program's sets: which tokens belong in them, given what kinds of conditions it has.

A shape names conditions without their sets. Fitting chooses each set such that F1 is greatest: sorted by how often
the feature fires on them, tokens are taken for as long as F1 rises, which is the best set there is. Each member costs
half an occurrence or more, so that what was seen once is not learnt by heart. A set of exceptions is found the same
way from the other end. Where a branch has two sets, or a program several branches, each is fitted in turn, given the
others.

Shape legend: N tokens, V codes a column can have, A tokens that the feature fires on, Q flags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.programs.columns import COLUMNS, Context

PAIR = "pair"
_PAIR_DISCOUNT = 0.75
_DISCOUNT = 0.5
_ROUNDS = 2
_LOOSE_RECALL = 0.99

Codes = NDArray[np.int64]
Holds = NDArray[np.bool_]


class Learnt(NamedTuple):
    """A condition whose set is to be learnt: the code of a column is in it, or is not."""

    column: str
    negated: bool = False


class Shape(NamedTuple):
    """The conditions of one branch: sets to be learnt, and flags with what they have to be."""

    sets: tuple[Learnt, ...] = ()
    flags: tuple[tuple[str, bool], ...] = ()

    @property
    def num_conditions(self) -> int:
        """Conditions of the branch."""
        return len(self.sets) + len(self.flags)


class Filled(NamedTuple):
    """A branch with its sets, as codes of a table's columns, by how much they count."""

    shape: Shape
    sets: tuple[Codes, ...]


class Table:
    """Columns and flags of some tokens, as small numbers to count by."""

    def __init__(
        self,
        columns: Mapping[str, NDArray[np.integer]],
        sizes: dict[str, int],
        flags_NQ: NDArray[np.uint8],
        flag_names: tuple[str, ...],
        pairs: Codes,
    ) -> None:
        self.columns, self.sizes, self.flags_NQ, self.flag_names = columns, sizes, flags_NQ, flag_names
        self.pairs = pairs  # what each code of a pair stands for
        self.flag_place = {name: place for place, name in enumerate(flag_names)}

    @classmethod
    def of(cls, context: Context) -> "Table":
        """The table of all tokens of a context; codes of ``current`` and the like are token ids, the last for none."""
        none = context.vocabulary_size
        columns = {name: np.where(context.column(name) < 0, none, context.column(name)) for name in COLUMNS}
        pairs, codes = np.unique(context.pair_N, return_inverse=True)
        columns[PAIR] = codes.astype(np.int32)
        sizes = dict.fromkeys(COLUMNS, none + 1) | {PAIR: len(pairs)}
        return cls(columns, sizes, context.flags_NQ, context.flag_names, pairs)

    def __len__(self) -> int:
        return len(self.flags_NQ)

    def rows(self, row_R: NDArray[np.int64]) -> "Table":
        """The same for some of the tokens, with codes as numbers that are quick to look up and count by."""
        columns = {name: column.take(row_R).astype(np.intp) for name, column in self.columns.items()}
        return Table(columns, self.sizes, self.flags_NQ[row_R], self.flag_names, self.pairs)

    def flag(self, name: str, wanted: bool) -> Holds:
        """Which tokens have a flag, or do not [N]."""
        holds: Holds = np.equal(self.flags_NQ[:, self.flag_place[name]], wanted)
        return holds

    def holds(self, filled: Filled) -> Holds:
        """Of which tokens a branch holds [N]."""
        holds_N = np.ones(len(self), dtype=bool)
        for learnt, codes in zip(filled.shape.sets, filled.sets, strict=True):
            holds_N &= self.lookup(learnt, codes)
        for name, wanted in filled.shape.flags:
            holds_N &= self.flag(name, wanted)
        return holds_N

    def any_holds(self, program: Sequence[Filled]) -> Holds:
        """Of which tokens any of the branches holds [N]."""
        holds: Holds = np.logical_or.reduce([np.zeros(len(self), dtype=bool), *map(self.holds, program)])
        return holds

    def lookup(self, learnt: Learnt, codes: Codes) -> Holds:
        """Of which tokens a condition holds, with ``codes`` as its set [N]."""
        table = np.full(self.sizes[learnt.column], learnt.negated)
        table[codes] = not learnt.negated
        found: Holds = table.take(self.columns[learnt.column], mode="clip")
        return found


@dataclass(frozen=True)
class Target:
    """Which tokens of a table a feature fires on, and on how many in all: there may be others outside the table."""

    row_A: NDArray[np.int64]  # ascending
    num_fires: int

    def f1(self, holds_N: Holds) -> float:
        """F1 of a prediction that holds nowhere outside the table."""
        hits = int(np.count_nonzero(holds_N[self.row_A]))
        return 2 * hits / max(int(np.count_nonzero(holds_N)) + self.num_fires, 1)


class Taken(NamedTuple):
    """What other branches hold of: how many tokens, how many of them rightly, and which are left to a branch."""

    hits: int = 0
    held: int = 0
    free_N: Holds | None = None


def discount_of(column: str) -> float:
    """What each member of a set costs, in occurrences."""
    return _PAIR_DISCOUNT if column == PAIR else _DISCOUNT


def best_set(fired_V: Codes, seen_V: Codes, discount: float, taken: Taken, num_fires: int) -> Codes:
    """The codes that make F1 greatest, together with what is taken already; the most frequent first.

    Args:
        fired_V: on how many tokens of each code the feature fires.
        seen_V: how many there are.
        discount: taken off ``fired_V`` for each code.
        taken: what other branches hold of.
        num_fires: tokens that the feature fires on, those of other branches included.
    """
    codes = np.flatnonzero(fired_V)
    if not len(codes):
        return codes
    gain, seen = fired_V[codes] - discount, seen_V[codes]
    order = np.argsort(-gain / seen, kind="stable")
    f1 = 2 * (taken.hits + np.cumsum(gain[order])) / (taken.held + np.cumsum(seen[order]) + num_fires)
    place = int(f1.argmax())
    if f1[place] <= 2 * taken.hits / max(taken.held + num_fires, 1):
        return codes[:0]
    chosen = codes[order[: place + 1]]
    return chosen[np.argsort(-fired_V[chosen], kind="stable")]


def best_exceptions(fired_V: Codes, seen_V: Codes, discount: float, taken: Taken, num_fires: int) -> Codes:
    """The codes to leave out so that F1 gets greatest, those that cost most first; arguments as for a set."""
    codes = np.flatnonzero(seen_V)
    lost, rid = fired_V[codes] + discount, seen_V[codes]
    order = np.argsort(lost / rid, kind="stable")
    hits = taken.hits + fired_V.sum() - np.cumsum(lost[order])
    held = taken.held + seen_V.sum() - np.cumsum(rid[order])
    f1 = 2 * hits / (held + num_fires)
    start = 2 * (taken.hits + fired_V.sum()) / max(taken.held + seen_V.sum() + num_fires, 1)
    if not len(codes) or f1.max() <= start:
        return codes[:0]
    chosen = codes[order[: int(f1.argmax()) + 1]]
    return chosen[np.argsort(fired_V[chosen] - seen_V[chosen], kind="stable")]


class Fitted(NamedTuple):
    """A program with its sets, and of which tokens each branch holds."""

    branches: tuple[Filled, ...] = ()
    holds: tuple[Holds, ...] = ()

    def held(self, num_tokens: int) -> Holds:
        """Of which tokens any branch holds [N]."""
        return np.logical_or.reduce(self.holds) if self.holds else np.zeros(num_tokens, dtype=bool)


def fit(table: Table, target: Target, shapes: Sequence[Shape]) -> Fitted:
    """Fill in the sets of a program's branches, one after the other, with each new one the others again."""
    fitted = Fitted()
    for place, shape in enumerate(shapes):
        fitted = fit_step(table, target, fitted, place, shape)
    return fitted


def fit_step(table: Table, target: Target, fitted: Fitted, place: int, shape: Shape) -> Fitted:
    """Fit one branch given the others: one that takes the place of another, or a new one behind the last.

    Those that were there before a new one are fitted again, as it may have taken something over from them.
    """
    branches, holds = list(fitted.branches), list(fitted.holds)
    is_new = place == len(branches)
    if is_new:
        branches.append(Filled(shape, ()))
        holds.append(np.zeros(len(table), dtype=bool))
    for number in [place, *range(place)] if is_new else [place]:
        others = _taken(target, holds[:number] + holds[number + 1 :])
        wanted = shape if number == place else branches[number].shape
        branches[number] = fit_branch(table, target, wanted, others)
        holds[number] = table.holds(branches[number])
    return Fitted(tuple(branches), tuple(holds))


def fit_branch(table: Table, target: Target, shape: Shape, taken: Taken = Taken()) -> Filled:  # noqa: B008
    """Fill in the sets of one branch, given what others hold of."""
    region = _region(table, shape, taken)
    if len(shape.sets) < 2:
        return Filled(shape, tuple(_learn(table, target, learnt, region, taken) for learnt in shape.sets))
    first, *others = shape.sets
    sets = [_loose_set(table, target, first.column, region), *(None for _ in others)]
    for number in range(_ROUNDS * len(sets)):
        place = (number + 1) % len(sets)
        within = region
        for other, codes in enumerate(sets):
            if other != place and codes is not None:
                found_N = table.lookup(shape.sets[other], codes)
                within = found_N if within is None else within & found_N
        sets[place] = _learn(table, target, shape.sets[place], within, taken)
    return Filled(shape, tuple(codes for codes in sets if codes is not None))


def loose_codes(fired_V: Codes, seen_V: Codes) -> Codes:
    """The fewest codes that a feature nearly always fires on, if it fires: the likelier ones first."""
    codes = np.flatnonzero(fired_V)
    order = np.argsort(-(fired_V[codes] - _DISCOUNT) / seen_V[codes], kind="stable")
    enough = int(np.searchsorted(np.cumsum(fired_V[codes][order]), _LOOSE_RECALL * fired_V.sum())) + 1
    return codes[order[:enough]]


def count_codes(table: Table, target: Target, column: str, region: Holds | None) -> tuple[Codes, Codes]:
    """On how many tokens of each code of a column the feature fires, and how many there are [V]."""
    codes_N, size = table.columns[column], table.sizes[column]
    fires = target.row_A if region is None else target.row_A[region[target.row_A]]
    seen = codes_N if region is None else codes_N[region]
    return np.bincount(codes_N[fires], minlength=size), np.bincount(seen, minlength=size)


def _region(table: Table, shape: Shape, taken: Taken) -> Holds | None:
    """The tokens that flags and other branches leave [N]; None for all."""
    region = taken.free_N
    for name, wanted in shape.flags:
        flag_N = table.flag(name, wanted)
        region = flag_N if region is None else region & flag_N
    return region


def _learn(table: Table, target: Target, learnt: Learnt, region: Holds | None, taken: Taken) -> Codes:
    fired_V, seen_V = count_codes(table, target, learnt.column, region)
    choose = best_exceptions if learnt.negated else best_set
    return choose(fired_V, seen_V, discount_of(learnt.column), taken, target.num_fires)


def _loose_set(table: Table, target: Target, column: str, region: Holds | None) -> Codes:
    return loose_codes(*count_codes(table, target, column, region))


def _taken(target: Target, holds: Sequence[Holds]) -> Taken:
    if not holds:
        return Taken()
    held_N = np.logical_or.reduce(list(holds))
    return Taken(int(np.count_nonzero(held_N[target.row_A])), int(np.count_nonzero(held_N)), ~held_N)
