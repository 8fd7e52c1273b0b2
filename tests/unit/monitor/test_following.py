"""Answers of this process, followed as they are written."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mistudio.instrument.compiled import Nameable
from mistudio.instrument.listening import Relay
from mistudio.instrument.served import Served
from mistudio.monitor.following import Following
from mistudio.monitor.live import Live, Wanted
from mistudio.monitor.records import Observation
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.monitor.watch.watching import Watcher
from mistudio.settings import validated
from mistudio.steer.callers import Caller
from mistudio.steer.config import ServiceConfig
from mistudio.steer.requests import Delta, Done, Event, Finished, GenerationRequest
from mistudio.steer.service import SteerService
from tests.support.served import tiny_store
from tests.support.watched import rules

FEATURES = (3, 17, 40)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with tiny_store(tmp_path_factory).open() as opened:
        yield opened


class Watch:
    """A service whose answers are followed."""

    def __init__(self, served: Served) -> None:
        watched = [
            {"name": f"f{number}", "feature": number, "threshold": 1e6, "pool": "top", "top": 2} for number in FEATURES
        ]
        self.watch_list = WatchList.model_validate({"watched": watched})
        self.live = Live(Watcher(served, self.watch_list).columns, 4, 1000)
        self.seen: list[Observation] = []
        self.following = Following(served, self.watch_list, self.live, self.seen.append, tells_words=True)
        relay = Relay()
        relay.listener = self.following
        self.service = SteerService(Nameable(served.session), "tiny", ServiceConfig(rows=4), listener=relay)

    def ask(self, key: str | None = None, **asked: Any) -> list[Event]:
        given = {"prompt": "the cat", "max_tokens": 6, "ignore_eos": True, "sampling": {"temperature": 0}, **asked}
        prepared = self.service.prepare(validated(GenerationRequest, given))
        told: list[Event] = []
        over = threading.Event()

        def tell(event: Event) -> None:
            told.append(event)
            if isinstance(event, Done):
                over.set()

        self.service.submit(prepared, tell, Caller("request", key))
        assert over.wait(60)
        return told


@pytest.fixture
def watch(served: Served) -> Iterator[Watch]:
    made = Watch(served)
    with made.service:
        yield made


def texts(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_values_are_those_that_a_request_which_watches_them_itself_is_told(watch: Watch) -> None:
    follower = watch.live.follow(Wanted(kinds=("token",)), lambda: None)
    events = watch.ask(key="alice", steering={"watch": list(FEATURES)})
    own = np.array([event.watched[0] for event in events if isinstance(event, Delta) and event.watched])
    told = follower.take()
    assert own.shape == (6, len(FEATURES))
    heard = np.array([[event["watched"][f"f{number}"] for number in FEATURES] for event in told])
    np.testing.assert_allclose(heard, own, rtol=1e-5, atol=1e-6)
    assert own.any()
    assert "".join(event["text"] for event in told) in texts(events)
    assert told[0]["origin"] == {"model": watch.following._model, "endpoint": "steer", "tenant": "alice"}
    (seen,) = watch.seen
    np.testing.assert_allclose(seen.max_W, own.max(axis=0), rtol=1e-5)
    np.testing.assert_allclose(seen.top_W, np.sort(own, axis=0)[-2:].mean(axis=0), rtol=1e-5)
    assert (seen.exchange, seen.num_tokens, seen.origin.tenant) == ("request", 6, "alice")


def test_who_follows_changes_no_answer_and_shows_in_none(watch: Watch, served: Served) -> None:
    with SteerService(Nameable(served.session), "tiny", ServiceConfig(rows=4)) as alone:
        request = GenerationRequest.model_validate(
            {"prompt": "the cat", "max_tokens": 6, "ignore_eos": True, "sampling": {"temperature": 0}}
        )
        expected = [event for event in alone.events(alone.prepare(request)) if isinstance(event, Delta)]
    found = [event for event in watch.ask() if isinstance(event, Delta)]
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]
    assert all(each.watched is None for each in found)


def test_a_rule_ends_an_answer_and_says_so(watch: Watch) -> None:
    watch.ask(n=2)
    values = watch.seen[0].max_W
    column = int(values.argmax())
    assert values[column] > 0
    stop = {
        "kind": "threshold",
        "watched": watch.watch_list.names[column],
        "above": 0.0,
        "pool": "max",
        "actions": ["end"],
    }
    watch.following.use(rules(stop, actions={"end": {"do": "stop"}}))
    follower = watch.live.follow(Wanted(kinds=("end",)), lambda: None)
    events = watch.ask()
    (end,) = [event for event in events if isinstance(event, Finished)]
    assert (end.reason, end.detail) == ("content_filter", "rule r0 of the monitor")
    assert watch.seen[-1].num_tokens == int(watch.seen[-1].place_W[column]) + 1 <= 6
    (told,) = follower.take()
    assert told["stopped"] == {"0": "rule r0 of the monitor"}
    assert watch.following.stop("request")  # as its alert asks, once it is over
    assert not watch.following.stop("another")


def test_what_is_compared_is_compared_as_ever(watch: Watch) -> None:
    edits = [{"op": "add", "feature": 3, "strength": 4.0}]
    events = watch.ask(steering={"edits": edits, "compare": True, "watch": [3]})
    (done,) = [event for event in events if isinstance(event, Done)]
    assert done.comparison is not None
    assert done.comparison.watched_plain is not None
    assert {len(token) for token in done.comparison.watched_plain} == {1}
    assert len(watch.seen) == 1  # of the answer that was asked for
