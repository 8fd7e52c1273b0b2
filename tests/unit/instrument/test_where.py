"""Which tokens an edit acts on, and how strongly."""

import numpy as np
import pytest

from mistudio.instrument.edits import Schedule, Where
from mistudio.instrument.where import PromptTokens, acts_on, constant_from, factor_at

# <s> You(user) are(user) <t> Fine(assistant)   and then four generated tokens, the last of them special
PROMPT = PromptTokens(
    (0, 10, 11, 1, 12), np.array([True, False, False, True, False]), [None, "user", "user", None, "assistant"]
)
PLACES = np.arange(9)
EXEMPT = np.array([True, False, False, True, False, False, False, False, True])


def on(**where: object) -> list[int]:
    return acts_on(Where.model_validate(where), PROMPT, PLACES, EXEMPT).nonzero()[0].tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [1, 2, 4, 5, 6, 7]),
        ({"specials": True}, list(range(9))),
        ({"tokens": "prompt"}, [1, 2, 4]),
        ({"tokens": "generated"}, [5, 6, 7]),
        ({"positions": [1, -1, 6]}, [1, 4, 6]),
        ({"positions": [0]}, []),
        ({"positions": [0], "specials": True}, [0]),
        ({"window": [1, 3]}, [6, 7]),
        ({"roles": ["user"]}, [1, 2]),
        ({"roles": ["assistant"]}, [4, 5, 6, 7]),
        ({"tokens": "all", "exclude": {"positions": [-1, 5]}}, [1, 2, 6, 7]),
        ({"specials": True, "exclude": {"tokens": "generated"}}, [0, 1, 2, 3, 4]),
        ({"tokens": "generated", "exclude": {"window": [0, 2]}}, [7]),
    ],
)
def test_an_edit_acts_where_all_that_is_said_agrees_and_exclusion_wins(
    where: dict[str, object], expected: list[int]
) -> None:
    assert on(**where) == expected


def test_a_schedule_goes_from_one_factor_to_the_other_along_the_answer() -> None:
    factors = factor_at(Schedule(start=0.0, end=1.0, steps=2), PROMPT.length, PLACES)
    assert factors.tolist() == [0, 0, 0, 0, 0, 0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("where", "schedule"),
    [
        ({}, None),
        ({"window": [1, 3]}, None),
        ({"positions": [2, 7]}, None),
        ({"exclude": {"window": [0, 2]}}, None),
        ({}, {"start": 0, "end": 2, "steps": 3}),
    ],
)
def test_from_the_place_that_is_named_all_generated_tokens_are_treated_alike(
    where: dict[str, object], schedule: dict[str, object] | None
) -> None:
    parsed, ramp = Where.model_validate(where), Schedule.model_validate(schedule) if schedule else None
    place = constant_from(parsed, ramp, PROMPT.length)
    later = np.arange(place, place + 20)
    on_T = acts_on(parsed, PROMPT, later, np.zeros(20, dtype=np.bool_))
    factor_T = on_T * factor_at(ramp, PROMPT.length, later)
    assert len(set(factor_T.tolist())) == 1
