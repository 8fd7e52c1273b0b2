"""Rules that end an answer while it is written."""

from typing import Any

import numpy as np
import pytest

from mistudio.monitor.records import Origin
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.rules.stop_rules import Values, firing, stop_rules
from tests.support.watched import rules, watch_list

STOP = {"end": {"do": "stop"}}
PLACE = {0: 0, 2: 1}  # of a and c; b is no feature


def made(*some: dict[str, object]) -> Rules:
    return rules(*({"actions": ["end"], **one} for one in some), actions=STOP)


def stops_after(given: Rules, *tokens: tuple[float, float], origin: Origin = Origin()) -> int | None:  # noqa: B008
    """The token that an answer ends with."""
    found, values = stop_rules(given, watch_list(), PLACE), Values(2)
    for number, token in enumerate(tokens):
        values.add(np.array(token, dtype=np.float32))
        if firing(found, origin, values) is not None:
            return number
    return None


def test_an_answer_ends_with_the_token_above_the_threshold() -> None:
    rule = {"kind": "threshold", "watched": "a"}
    assert stops_after(made(rule), (0.5, 9), (1.0, 9), (1.5, 0), (0, 0)) == 2
    assert stops_after(made({**rule, "above": 2.0}), (1.5, 0)) is None


def test_columns_of_a_set_may_fire_on_different_tokens() -> None:
    rule = {"kind": "set", "watched": ["a", "c"]}
    assert stops_after(made(rule), (2, 0), (0, 0), (0, 2)) == 2
    assert stops_after(made({**rule, "at_least": "any"}), (0, 0), (0, 2)) == 1


def test_a_mean_of_the_largest_values_is_over_the_tokens_so_far() -> None:
    rule = {"kind": "threshold", "watched": "c", "pool": "top", "above": 1.0}
    assert stops_after(made(rule), (0, 1.5)) == 0  # one token, whose mean it is
    assert stops_after(made(rule), (0, 0.5), (0, 1.2), (0, 1.9)) == 2


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "threshold", "watched": "b"},  # cannot be read
        {"kind": "set", "watched": ["a", "b"]},  # only one of them can
        {"kind": "threshold", "watched": "a", "part": "prompt", "above": 1.0},
        {"kind": "rate", "watched": "a", "share": 0, "last_exchanges": 20},
        {"kind": "threshold", "watched": "a", "actions": ["log"]},
        {"kind": "threshold", "watched": "a", "where": {"tenant": ["other"]}},
    ],
)
def test_what_cannot_be_looked_at_or_is_not_meant_ends_nothing(rule: dict[str, Any]) -> None:
    assert stops_after(made(rule), (9, 9), (9, 9)) is None


def test_a_rule_for_a_tenant_ends_its_answers() -> None:
    rule = made({"kind": "threshold", "watched": "a", "where": {"tenant": ["alice"]}})
    assert stops_after(rule, (9, 9), origin=Origin(tenant="alice")) == 0
