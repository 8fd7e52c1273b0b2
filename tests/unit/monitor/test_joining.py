import random
from typing import Any

import pytest

from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import LoggedEvent
from mistudio.monitor.traffic.joining import Joined, Joiner
from tests.support.logged_events import event

REQUEST, RESPONSE = {"prompt": "Once"}, {"predictions": ["upon"]}


def joiner(**changed: Any) -> Joiner:
    return Joiner(TrafficSettings(join_timeout_s=10, **changed))


def both(id_: str = "1", **headers: str) -> tuple[LoggedEvent, LoggedEvent]:
    return event("request", REQUEST, id_, **headers), event("response", RESPONSE, id_, **headers)


def happened(joiner: Joiner) -> dict[str, int]:
    return {str(name): count for name, count in joiner.counts.items() if count}


@pytest.mark.parametrize("is_turned", [False, True])
def test_a_request_and_its_response_are_joined_in_any_order(is_turned: bool) -> None:
    request, response = both()
    made = joiner()
    first, second = (response, request) if is_turned else (request, response)
    assert made.add(first, 0.0) == []
    assert made.add(second, 9.0) == [Joined(request, response)]
    assert happened(made) == {"joined": 1}
    assert (made.num_waiting, made.waiting_bytes) == (0, 0)


def test_what_waits_too_long_goes_on_alone_and_the_other_half_at_once_when_it_comes() -> None:
    request, response = both()
    made = joiner()
    made.add(request, 0.0)
    assert made.expire(9.9) == []
    assert made.expire(10.0) == [Joined(request, None)]
    assert made.add(response, 11.0) == [Joined(None, response)]
    assert happened(made) == {"request_alone": 1, "response_alone": 1, "late": 1}


def test_a_response_whose_request_was_lost_is_let_go_too() -> None:
    _, response = both()
    made = joiner()
    made.add(response, 0.0)
    assert made.expire(10.0) == [Joined(None, response)]
    assert happened(made) == {"response_alone": 1}


def test_time_outs_need_no_call_of_their_own() -> None:
    made = joiner()
    first, later = both("1")[0], both("2")[0]
    made.add(first, 0.0)
    assert made.add(later, 20.0) == [Joined(first, None)]


def test_events_that_come_twice_are_dropped_also_after_they_were_joined() -> None:
    request, response = both()
    made = joiner()
    for each in (request, request, response, response, request):
        made.add(each, 0.0)
    assert happened(made) == {"joined": 1, "doubled": 3}
    assert made.num_waiting == 0


def test_an_id_that_a_client_uses_for_everything_makes_an_exchange_each_time() -> None:
    made = joiner()
    ready = []
    for number in range(3):
        ready += made.add(event("request", {"prompt": f"{number}"}, "same"), 0.0)
        ready += made.add(event("response", {"predictions": [f"{number}"]}, "same"), 0.0)
    assert [each.request is not None and each.response is not None for each in ready] == [True] * 3
    assert happened(made) == {"joined": 3}


def test_an_id_that_comes_again_before_it_was_joined_lets_the_first_go_alone() -> None:
    made = joiner()
    first, second = (event("request", {"prompt": each}, "same") for each in "ab")
    made.add(first, 0.0)
    assert made.add(second, 0.0) == [Joined(first, None)]
    response = both("same")[1]
    assert made.add(response, 0.0) == [Joined(second, response)]
    assert happened(made) == {"joined": 1, "request_alone": 1, "reused": 1}


def test_two_services_may_use_one_id_at_once() -> None:
    ours, theirs = both(), both(**{"ce-inferenceservicename": "other"})
    made = joiner()
    ready = [joined for each in (ours[0], theirs[0], theirs[1], ours[1]) for joined in made.add(each, 0.0)]
    assert ready == [Joined(*theirs), Joined(*ours)]


def test_what_waits_is_bounded_in_number_and_bytes() -> None:
    made = joiner(max_waiting=3)
    ready = [joined for number in range(5) for joined in made.add(both(str(number))[0], 0.0)]
    assert [each.first.id for each in ready] == ["0", "1"]
    assert happened(made) == {"request_alone": 2, "pushed_out": 2}
    made = joiner(max_event_bytes=1024, max_waiting_bytes=4096)
    for number in range(20):
        made.add(event("request", b"x" * 1000, str(number)), 0.0)
        assert made.waiting_bytes <= 4096
    assert made.num_waiting == 2


def test_what_is_remembered_is_bounded() -> None:
    made = joiner(recent_ids=4)
    for number in range(100):
        for each in both(str(number)):
            made.add(each, 0.0)
    for each in both("99"):
        made.add(each, 0.0)
    assert happened(made) == {"joined": 100, "doubled": 2}
    made.add(both("0")[0], 0.0)  # forgotten, so that it waits like any other
    assert made.num_waiting == 1
    assert len(made._seen._numbers) == 8


def test_where_one_half_alone_is_logged_it_waits_for_nothing() -> None:
    request, response = both()
    assert joiner(logs="request").add(request, 0.0) == [Joined(request, None)]
    assert joiner(logs="response").add(response, 0.0) == [Joined(None, response)]


def test_every_event_is_handed_on_once_or_counted_whatever_the_order() -> None:
    draw = random.Random(0)
    events = [each for number in range(200) for each in both(str(number))]
    lost = set(draw.sample(range(400), 40))
    sent = [each for place, each in enumerate(events) if place not in lost]
    sent += draw.sample(sent, 60)
    draw.shuffle(sent)
    made = joiner(max_waiting=150)
    ready = [joined for time, each in enumerate(sent) for joined in made.add(each, time / 20)]
    ready += made.flush()
    halves = [half for joined in ready for half in (joined.request, joined.response) if half is not None]
    assert len(halves) + made.counts["doubled"] == len(sent)
    assert len({(half.id, half.kind) for half in halves}) == len(halves)
    assert made.counts["joined"] > 50
    assert made.num_waiting == made.waiting_bytes == 0
