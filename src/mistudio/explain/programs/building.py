"""From the sets that a search has filled in to a program: token ids, and the activations to predict.

Shape legend: N tokens, V token ids.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.programs.columns import CURRENT, Context
from mistudio.explain.programs.fitting import PAIR, Codes, Filled, Learnt, Table
from mistudio.explain.programs.language import Branch, Condition, Flag, Member, Pair, Program
from mistudio.explain.tokens import NO_TOKEN

_PRIOR_TOKENS = 4  # a token's own mean counts as much as the branch's once it was seen so often
_MOST_VALUES = 256
_DIGITS = 4


def build(context: Context, table: Table, filled: Sequence[Filled], value_N: NDArray[np.float32]) -> Program:
    """The program that says what the branches say.

    Args:
        context: the tokens that they were fitted on.
        table: the same tokens.
        filled: the branches.
        value_N: the feature's activation on each.
    """
    branches = []
    open_N = np.ones(len(table), dtype=bool)
    for branch in filled:
        holds_N = table.holds(branch) & open_N
        value = float(value_N[holds_N].mean()) if holds_N.any() else 0.0
        if value <= 0:
            continue
        open_N &= ~holds_N
        conditions = tuple(_conditions(branch, table, context.vocabulary_size))
        values = _values(context.column(CURRENT)[holds_N], value_N[holds_N], value)
        branches.append(Branch(conditions=conditions, value=_rounded(value), values=values))
    return Program(branches=tuple(branches))


def _conditions(branch: Filled, table: Table, vocabulary_size: int) -> list[Condition]:
    conditions: list[Condition] = []
    for learnt, codes in zip(branch.shape.sets, branch.sets, strict=True):
        conditions.append(
            _pair(learnt, table.pairs[codes], vocabulary_size)
            if learnt.column == PAIR
            else Member.model_validate(
                {
                    "column": learnt.column,
                    "tokens": tuple(NO_TOKEN if code == vocabulary_size else code for code in codes.tolist()),
                    "negated": learnt.negated,
                }
            )
        )
    return [*conditions, *(Flag(name=name, negated=not wanted) for name, wanted in branch.shape.flags)]


def _pair(learnt: Learnt, pairs: Codes, vocabulary_size: int) -> Pair:
    known = pairs[pairs >= 0]
    firsts, seconds = (known // vocabulary_size).tolist(), (known % vocabulary_size).tolist()
    return Pair(pairs=tuple(zip(firsts, seconds, strict=True)), negated=learnt.negated)


def _values(id_R: NDArray[np.int32], value_R: NDArray[np.float32], branch_value: float) -> dict[int, float]:
    """Mean activations by current token, drawn to the branch's where a token was seen a few times only."""
    ids, code_R, counts = np.unique(id_R, return_inverse=True, return_counts=True)
    sums = np.bincount(code_R, weights=value_R)
    means = (sums + _PRIOR_TOKENS * branch_value) / (counts + _PRIOR_TOKENS)
    most = np.sort(np.argsort(-counts, kind="stable")[:_MOST_VALUES])
    return {int(ids[place]): _rounded(means[place]) for place in most} if len(ids) > 1 else {}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
