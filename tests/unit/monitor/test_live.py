"""The live stream: who follows is told what it wants, and what it had no room for is counted."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mistudio.errors import Busy
from mistudio.monitor.live import Follower, Live, Wanted
from mistudio.monitor.live_events import LiveEvent, alert_event, sample_event, token_event
from mistudio.monitor.records import Alert, Origin
from tests.support.watched import NAMES, observation

COLUMNS = [SimpleNamespace(name=name, feature=f"sae/1#{number}") for number, name in enumerate(NAMES)]


def live(num_followers: int = 2, num_events: int = 3) -> Live:
    return Live(COLUMNS, num_followers, num_events)


def columns(*values: float) -> NDArray[np.float32]:
    """Values of the first columns, and 0 of the others."""
    return np.array([*values, *[0.0] * (len(NAMES) - len(values))], dtype=np.float32)


def follow(to: Live, **wanted: Any) -> Follower:
    return to.follow(Wanted.model_validate(wanted), lambda: None)


def test_a_slow_follower_loses_events_is_told_how_many_and_holds_nobody_up() -> None:
    to = live(num_events=3)
    slow, quick = follow(to), follow(to)
    for number in range(5):
        to.tell(sample_event(observation(number, 1.0), str(number)))
        assert [event["id"] for event in quick.take()] == [str(number)]
    told = slow.take()
    assert [event.get("id") for event in told] == ["0", "1", "2", None]
    assert told[-1] == {"kind": "dropped", "count": 2}
    assert to.num_dropped == 2
    to.tell(sample_event(observation(5, 1.0), "5"))
    assert [event["id"] for event in slow.take()] == ["5"]


def test_it_is_woken_once_for_all_that_waits() -> None:
    to, woken = live(num_events=9), []
    follower = to.follow(Wanted(), lambda: woken.append(1))
    for number in range(4):
        to.tell(sample_event(observation(number, 1.0), str(number)))
    assert len(woken) == 1
    assert len(follower.take()) == 4
    to.tell(sample_event(observation(4, 1.0), "4"))
    assert len(woken) == 2


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [0, 1, 2]),
        ({"kinds": ("alert",)}, []),
        ({"model": "m1"}, [1]),
        ({"endpoint": "canary"}, [2]),
        ({"tenant": "t"}, [0]),
        ({"request": "x2"}, [2]),
        ({"watched": ("a",), "min_value": 2.0}, [1, 2]),
        ({"features": ("sae/1#1",), "min_value": 2.0}, [0]),
        ({"watched": ("nothing",)}, []),
    ],
)
def test_it_is_told_what_it_wants_and_nothing_else(wanted: dict[str, Any], numbers: list[int]) -> None:
    to = live(num_events=9)
    follower = follow(to, **wanted)
    for one in (
        observation(0, 1.0, 5.0, tenant="t"),
        observation(1, 2.0, 0.0, model="m1"),
        observation(2, 3.0, 0.0, endpoint="canary"),
    ):
        to.tell(sample_event(one, one.exchange[1:]))
    assert [int(event["id"]) for event in follower.take()] == numbers


def test_a_sample_is_told_with_its_values_by_token_unless_these_are_not_wanted() -> None:
    to = live()
    all_of_it, pooled = follow(to, watched=("b",)), follow(to, tokens=False)
    value_TW = np.stack([columns(0, 0.25), columns(0, 2.0)])
    tokens: Any = SimpleNamespace(value_TW=value_TW)
    to.tell(sample_event(observation(3, 0.0, 2.0, model="m"), "8", tokens))
    (told,) = all_of_it.take()
    assert told["watched"] == {"b": {"max": 2.0, "token": 7, "top": 2.0, "values": [0.25, 2.0]}}
    assert (told["kind"], told["request"], told["origin"], told["tokens"]) == ("sample", "x3", {"model": "m"}, 9)
    (told,) = pooled.take()
    assert told["watched"].keys() == set(NAMES)
    assert "values" not in told["watched"]["b"]
    assert to.wants_tokens
    to.leave(all_of_it)
    assert not to.wants_tokens


def test_a_token_is_told_with_its_values_and_what_was_not_read_is_left_out() -> None:
    to = live()
    follower = follow(to)
    to.tell(token_event(Origin("m"), "r", 0, 4, " cat", columns(1.5, np.nan)))
    (told,) = follower.take()
    assert told["watched"] == {"a": 1.5} | dict.fromkeys(NAMES[2:], 0.0)
    assert (told["token"], told["text"], told["answer"]) == (4, " cat", 0)
    assert "id" not in told


def test_alerts_are_told_with_what_json_has_numbers_for() -> None:
    to = live(num_events=9)
    follower = follow(to, min_value=3.0)
    alert = Alert("1", 2.0, "r", "drift", "warning", "m", values={"rate": np.float32(0.5), "log": float("inf")})
    to.tell(alert_event(alert, None))
    (told,) = follower.take()
    assert told["kind"] == "drift"
    assert told["alert"]["values"] == {"rate": 0.5, "log": None}


def test_as_many_may_follow_as_the_settings_say() -> None:
    to = live(num_followers=1)
    first = follow(to)
    with pytest.raises(Busy, match="1 clients follow"):
        follow(to)
    to.leave(first)
    follow(to)
    to.tell(LiveEvent("end", Origin(), "r", None, {}))
    assert first.take() == []
