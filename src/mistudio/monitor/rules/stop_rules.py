"""Rules that end an answer while it is written, looked at after each of its tokens.

Shape legend: T tokens, L columns that are read.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.records import Origin
from mistudio.monitor.rules.rules import Origins, RateRule, Rule, Rules, StopAction
from mistudio.monitor.watch.watch_list import WatchList


class Limit(NamedTuple):
    """What a rule asks of one column.

    Attributes:
        column: which of those that are read.
        above: value that has to be exceeded.
        top: of how many largest values that is a mean.
    """

    column: int
    above: float
    top: int


class StopRule(NamedTuple):
    """When an answer is ended.

    Attributes:
        name: of the rule.
        where: the traffic that it is for.
        limits: of its columns.
        least: how many of them have to be exceeded.
    """

    name: str
    where: Origins
    limits: tuple[Limit, ...]
    least: int

    def fires(self, value_TL: "Values") -> bool:
        """Whether an answer has to end, as far as it has come."""
        return sum(value_TL.pooled(limit.column, limit.top) > limit.above for limit in self.limits) >= self.least


class Values:
    """The values of an answer's tokens, as far as it has come.

    Args:
        width: columns that are read.
    """

    def __init__(self, width: int) -> None:
        self._values: list[NDArray[np.float32]] = []
        self._max_L = np.full(width, -np.inf, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value_L: NDArray[np.float32]) -> None:
        """One more token."""
        self._values.append(value_L)
        np.maximum(self._max_L, value_L, out=self._max_L)

    def pooled(self, column: int, top: int) -> float:
        """The largest value of a column, or the mean of so many largest ones."""
        if top == 1:
            return float(self._max_L[column])
        return top_mean(np.array([value_L[column] for value_L in self._values], dtype=np.float32), top)

    def whole(self) -> NDArray[np.float32]:
        """All of them [T, L]."""
        return np.array(self._values, dtype=np.float32).reshape(len(self._values), len(self._max_L))


def stop_rules(rules: Rules, watch_list: WatchList, place: Mapping[int, int]) -> tuple[StopRule, ...]:
    """The rules that end answers, of those whose columns can be read while one is written.

    Args:
        rules: all of them.
        watch_list: with its thresholds filled in.
        place: of a column of the watch list among those that are read.
    """
    found = []
    for rule in rules.rules:
        is_stop = any(isinstance(rules.actions.get(name), StopAction) for name in rule.actions)
        if is_stop and not isinstance(rule, RateRule):
            limits = tuple(_limits(rule, watch_list, place))
            least = getattr(rule, "least", 1)
            if len(limits) >= least:
                found.append(StopRule(rule.name, rule.where, limits, least))
    return tuple(found)


def firing(rules: Sequence[StopRule], origin: Origin, values: Values) -> str | None:
    """Name of the first rule that ends an answer; None where none does."""
    return next((rule.name for rule in rules if rule.where.has(origin) and rule.fires(values)), None)


def top_mean(value_T: NDArray[np.float32], top: int) -> float:
    """The mean of the largest values: of so many, or of as many as there are."""
    if top < len(value_T):
        value_T = np.partition(value_T, -top)[-top:]
    return float(value_T.mean())


def _limits(rule: Rule, watch_list: WatchList, place: Mapping[int, int]) -> list[Limit]:
    """What the columns that are read have to exceed; an answer has no prompt."""
    found = []
    for name in rule.columns:
        column = watch_list.number(name)
        watched = watch_list.watched[column]
        above = watched.threshold if rule.above is None else rule.above
        if column in place and above is not None and (rule.part or watched.part) != "prompt":
            top = watched.top if (rule.pool or watched.pool) == "top" else 1
            found.append(Limit(place[column], above, top))
    return found
