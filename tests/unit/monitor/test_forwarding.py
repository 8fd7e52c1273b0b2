import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from mistudio.errors import ConfigError
from mistudio.monitor.traffic.forwarding import Forwarder, ForwardSettings
from mistudio.settings import validated
from tests.support.logged_events import agent_headers
from tests.support.sinks import EventSink


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTUDIO_ALLOWED_HOSTS", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sink() -> Iterator[EventSink]:
    with EventSink() as opened:
        yield opened


def forwarded(
    url: str, do: Callable[[Forwarder], Awaitable[Any]], timeout_s: float = 20, **changed: Any
) -> dict[str, int]:
    """What became of events that ``do`` offers, once all was sent or the time was over."""

    async def run() -> dict[str, int]:
        forwarder = Forwarder(ForwardSettings(url=url, **changed))
        task = asyncio.create_task(forwarder.run())
        await do(forwarder)
        await forwarder.close(timeout_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return forwarder.counts()

    return asyncio.run(run())


def put(*bodies: bytes, **headers: str) -> Callable[[Forwarder], Awaitable[None]]:
    async def do(forwarder: Forwarder) -> None:
        for body in bodies:
            forwarder.offer((agent_headers("request") | headers).items(), body)

    return do


def test_an_event_goes_on_as_it_came_without_the_keys_of_this_server(sink: EventSink) -> None:
    body = bytes(range(256))
    metadata = '{"X-User":["M\xfcller"]}'.encode().decode("latin-1")
    given = {"ce-metadata": metadata, "authorization": "Bearer ours", "cookie": "a=b", "traceparent": "00-1-2-01"}
    counts = forwarded(sink.url, put(body, **given))
    (received,) = sink.wait_for(1)
    assert received.path == "/events"
    assert received.body == body
    sent = {name: value for name, value in agent_headers("request").items() if name != "user-agent"}
    assert received.headers.items() >= (sent | {"ce-metadata": metadata, "traceparent": "00-1-2-01"}).items()
    assert not {"authorization", "cookie"} & received.headers.keys()
    assert counts == {"offered": 1, "sent": 1, "refused": 0, "failed": 0, "dropped": 0}


def test_a_slow_sink_holds_nobody_up_and_what_has_no_room_is_dropped_and_counted(sink: EventSink) -> None:
    sink.go.clear()

    async def do(forwarder: Forwarder) -> None:
        accepted = [forwarder.offer(agent_headers("request").items(), b"x") for _ in range(3)]
        await asyncio.to_thread(sink.wait_for, 2)  # both connections are busy now
        accepted += [forwarder.offer(agent_headers("request").items(), b"x") for _ in range(10)]
        assert accepted.count(True) == 5
        assert forwarder.num_queued == 3
        sink.go.set()

    counts = forwarded(sink.url, do, connections=2, max_queue=3)
    assert (counts["offered"], counts["sent"], counts["dropped"]) == (13, 5, 8)


def test_bytes_that_wait_are_bounded(sink: EventSink) -> None:
    counts = forwarded(sink.url, put(*[b"x" * 1000] * 10), max_queue_bytes=5000)
    assert (counts["sent"], counts["dropped"]) == (2, 8)


def test_at_the_end_what_could_not_be_sent_is_dropped_and_counted(sink: EventSink) -> None:
    sink.go.clear()
    counts = forwarded(sink.url, put(*[b"x"] * 5), timeout_s=0.2, connections=1)
    assert counts["dropped"] == 4


def test_what_another_sink_refuses_or_nobody_takes_is_counted_and_not_sent_again() -> None:
    with EventSink(status=503) as refusing:
        assert forwarded(refusing.url, put(b"a", b"b"))["refused"] == 2
        assert len(refusing.received) == 2
    assert forwarded(refusing.url, put(b"a"))["failed"] == 1


def test_no_redirect_is_followed_and_no_metadata_service_reached(sink: EventSink) -> None:
    with EventSink(status=307, location=sink.url) as redirecting:
        assert forwarded(redirecting.url, put(b"a"))["refused"] == 1
    assert sink.received == []
    assert forwarded("http://169.254.169.254/latest", put(b"a"))["failed"] == 1


@pytest.mark.parametrize("url", ["", "sink", "ftp://sink/", "http://user:key@sink/", "http://sink:0/", "http://[/"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address to forward to"):
        validated(ForwardSettings, {"url": url})
