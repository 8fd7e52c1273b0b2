"""Which features a page of a list shows: those that conditions hold for, in an order, a few of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.errors import InputError
from mistudio.plain_text import shortened

Direction = Literal["ascending", "descending"]
Order = tuple[str, Direction]  # of a column
Row = dict[str, Any]

_FEATURE = "feature"


class Condition(NamedTuple):
    """What a column has to be; a feature without a value in it does not match.

    ``op`` is ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, or ``contains`` for a text in letters of either case.
    """

    column: str
    op: str
    value: bool | float | str


class Page(NamedTuple):
    """Some of the features that match."""

    rows: list[Row]
    total: int  # that match


def _contains(texts: pa.Array, part: str) -> pa.Array:
    return pc.match_substring(texts, part, ignore_case=True)


_TESTS: dict[str, Callable[[pa.Array, Any], pa.Array]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "contains": _contains,
}


class Chosen(NamedTuple):
    """The first features that match, and how many do."""

    feature: NDArray[np.int64]
    total: int


def choose(
    blocks: Callable[[Sequence[str]], Iterator[tuple[int, dict[str, pa.Array]]]],
    where: Sequence[Condition],
    order: Sequence[Order],
    count: int,
) -> Chosen:
    """The first features that match all of ``where``, in ``order``; like ones by number, without a value last.

    Some features are looked at after the other: of those that match, no more than the first ``count`` are kept.

    Args:
        blocks: gives columns of all features, some features at a time; the feature is a column too.
        where: conditions.
        order: columns to sort by, with their direction.
        count: how many are wanted.

    Raises:
        InputError: a condition does not fit its column.
    """
    where = [Condition(*each) for each in where]
    names = list(dict.fromkeys((_FEATURE, *(each.column for each in where), *(name for name, _ in order))))
    keys = [(str(number), direction) for number, (_, direction) in enumerate(order)]
    best: pa.Table | None = None
    total = 0
    for _, columns in blocks(names):
        rows = pa.table(columns)
        for condition in where:
            rows = rows.filter(_holds(rows[condition.column], condition))
        total += len(rows)
        sorted_by = {str(number): rows[name] for number, (name, _) in enumerate(order)}
        rows = pa.table({_FEATURE: rows[_FEATURE], **sorted_by})
        best = _first(
            rows if best is None else pa.concat_tables([best, _reaching(rows, best, keys, count)]), keys, count
        )
    feature = np.empty(0, dtype=np.int64) if best is None else best[_FEATURE].to_numpy().astype(np.int64)
    return Chosen(feature, total)


def _reaching(rows: pa.Table, best: pa.Table, keys: list[Order], count: int) -> pa.Table:
    """Of further rows those that may be among the first: what lies behind the last of those need not be sorted."""
    if not keys or not 0 < count <= len(best):
        return rows
    key, direction = keys[0]
    last = best[key][count - 1]
    if pa.types.is_boolean(last.type) or not last.is_valid or last.as_py() != last.as_py():  # NaN, which comes late
        return rows
    reaches = pc.greater_equal if direction == "descending" else pc.less_equal
    return rows.filter(reaches(rows[key], last))


def _first(rows: pa.Table, keys: list[Order], count: int) -> pa.Table:
    """The first rows by some columns; equal ones stay in their order."""
    if not keys:
        return rows.slice(0, count)
    return rows.take(pc.sort_indices(rows, sort_keys=keys).slice(0, count))


def _holds(values: pa.Array, condition: Condition) -> pa.Array:
    test = _TESTS.get(condition.op)
    if test is None:
        message = f"{shortened(condition.op)} is no comparison: use {', '.join(_TESTS)}."
        raise InputError(message)
    try:
        return pc.fill_null(test(values, condition.value), fill_value=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, TypeError) as error:
        column, op, value = condition
        message = f"{column} holds {values.type} and cannot be tried with {op} {shortened(value)}."
        raise InputError(message) from error
