"""Which features a page of a list shows: those that conditions hold for, in an order, a few of them."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from mistudio.errors import InputError
from mistudio.plain_text import shortened

Direction = Literal["ascending", "descending"]
Order = tuple[str, Direction]  # of a column
Row = dict[str, Any]


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


def choose(
    get: Callable[[str], pa.Array], where: Sequence[Condition], order: Sequence[Order], num_features: int
) -> pa.Array:
    """Numbers of the features that match all of ``where``, in ``order``; like ones by number, without a value last.

    Raises:
        InputError: a condition does not fit its column.
    """
    feature = pa.array(range(num_features), pa.int32())
    if where:
        feature = feature.filter(reduce(pc.and_, (_holds(get(each[0]), Condition(*each)) for each in where)))
    if not order:
        return feature
    columns = {str(number): get(name).take(feature) for number, (name, _) in enumerate(order)}
    keys = [(str(number), direction) for number, (_, direction) in enumerate(order)]
    return feature.take(pc.sort_indices(pa.table(columns), sort_keys=keys))


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
