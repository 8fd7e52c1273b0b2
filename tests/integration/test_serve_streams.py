"""Streams and sinks of a server: WebSockets and server-sent events are guarded as requests are, and events get in."""

import base64
import io
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from mistudio.errors import ConfigError
from model_servers.base.keys import ENVIRONMENT, Keys, read_keys
from model_servers.base.logs import configure_logging
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings
from tests.support.serving import serving, url_of
from tests.support.small_predictor import EVENTS, SINK, SLOW, SOCKET, SmallPredictor

SECRET = "correct-horse/battery+staple="
OTHER = "staple-of-sixteen-and-more"
ENCODED = base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def predictor() -> SmallPredictor:
    return SmallPredictor()


@pytest.fixture(scope="module")
def server(predictor: SmallPredictor) -> Iterator[ModelServer]:
    with serving([predictor], max_body_bytes=5000, max_streams=3) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(server), timeout=60) as made:
        yield made


def two_keys() -> Keys:
    return read_keys(ServerSettings(), {ENVIRONMENT: f"alice:{SECRET},events:{OTHER}"})


def open_socket(
    server: ModelServer, path: str = SOCKET, headers: dict[str, str] | None = None, offered: tuple[str, ...] = ()
) -> AbstractContextManager[ClientConnection]:
    subprotocols = list(map(Subprotocol, offered)) or None
    url = f"ws://127.0.0.1:{server.port}{path}"
    return connect(url, additional_headers=headers, subprotocols=subprotocols, compression=None, proxy=None)


def refusal(server: ModelServer, path: str = SOCKET, **options: Any) -> tuple[int, str]:
    """Status and message by which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as refused, open_socket(server, path, **options):
        pass
    response = refused.value.response
    assert response.headers["x-request-id"]
    return response.status_code, json.loads(response.body)["error"]


def closing(server: ModelServer, said: str) -> tuple[int, str]:
    """Code and reason by which a WebSocket is closed when something is said."""
    with open_socket(server) as connection:
        connection.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=30)
        received = closed.value.rcvd
        assert received is not None
        return received.code, received.reason


def metric(client: httpx.Client, name: str) -> float:
    found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0].split()[1]) if found else 0.0


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        threading.Event().wait(0.05)
    raise TimeoutError


def test_a_websocket_says_what_its_route_says_and_is_counted_and_logged(
    server: ModelServer, client: httpx.Client, predictor: SmallPredictor
) -> None:
    name = f'mistudio_requests_total{{method="WEBSOCKET",route="{SOCKET}",status="101"}}'
    before = metric(client, name)
    with open_socket(server) as connection:
        connection.send("once")
        assert json.loads(connection.recv(timeout=30))["said"] == "once"
        assert metric(client, "mistudio_streams_active") == 1
        assert metric(client, "mistudio_requests_active") == 1
    until(lambda: metric(client, "mistudio_streams_active") == 0 and predictor.num_open == 0)
    until(lambda: metric(client, name) == before + 1)
    assert f'mistudio_processing_duration_seconds_count{{route="{SOCKET}"}}' not in client.get("/metrics").text


def test_with_keys_a_websocket_needs_one_in_a_header_or_as_a_subprotocol() -> None:
    with serving([SmallPredictor()], two_keys()) as server:
        basic = base64.b64encode(f"alice:{SECRET}".encode()).decode()
        for headers in ({"authorization": f"Bearer {SECRET}"}, {"authorization": f"Basic {basic}"}):
            with open_socket(server, headers=headers) as connection:
                connection.send("once")
                connection.recv(timeout=30)
        with open_socket(server, offered=("bearer", ENCODED)) as connection:
            assert connection.subprotocol == "bearer"
            connection.send("once")
            seen = json.loads(connection.recv(timeout=30))["headers"]
            assert "sec-websocket-protocol" not in seen
        assert refusal(server) == (401, "The key is missing: send the header Authorization: Bearer KEY.")
        for offered in (("bearer", "x" * 20), ("bearer",), ("other", ENCODED), ("bearer", ENCODED, "other")):
            assert refusal(server, offered=offered)[0] == 401
        assert refusal(server, path="/metrics")[0] == 401
        assert refusal(server, path=f"{SOCKET}?key={ENCODED}")[0] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": "http://127.0.0.1:PORT"}, 200),
    ],
)
def test_a_page_of_another_site_opens_no_stream(
    server: ModelServer, client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    headers = {name: value.replace("PORT", str(server.port)) for name, value in headers.items()}
    assert client.get(EVENTS, params={"most": 1}, headers=headers).status_code == status
    if status == 200:
        with open_socket(server, headers=headers):
            pass
    else:
        assert refusal(server, headers=headers)[0] == status


def test_a_websocket_by_a_name_that_was_made_to_lead_here_is_refused(server: ModelServer) -> None:
    head = (
        f"GET {SOCKET} HTTP/1.1\r\nhost: elsewhere.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_where_no_websocket_is_served_or_no_more_fit_in_it_is_refused(
    server: ModelServer, client: httpx.Client
) -> None:
    with pytest.raises(InvalidStatus) as refused, open_socket(server, "/describe"):
        pass
    assert refused.value.response.status_code == 403
    with ExitStack() as connections:
        for _ in range(3):
            connections.enter_context(open_socket(server))
        assert refusal(server) == (429, "The server is at 3 streams, the most that it takes: try again in a moment.")
        assert client.get(EVENTS).status_code == 429
        assert client.get("/describe").status_code == 200  # they take no request's place
    until(lambda: metric(client, "mistudio_streams_active") == 0)


def test_what_goes_wrong_on_a_websocket_closes_it_with_a_code_that_says_whose_fault_it_is(server: ModelServer) -> None:
    code, reason = closing(server, "fail")
    assert (code, "KeyError" in reason) == (1011, False)
    assert closing(server, "wrong") == (1008, "wrong is no word that is known here.")
    assert closing(server, "x" * 6000)[0] == 1009


def test_messages_may_be_counted_as_requests_of_the_key() -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    with serving([SmallPredictor()], two_keys(), requests_per_minute=1, burst=2) as server:
        with open_socket(server, headers=headers) as connection:
            connection.send("spend")
            connection.recv(timeout=30)
            connection.send("spend")
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        assert refusal(server, headers=headers)[0] == 429


def test_streams_outlast_the_time_for_a_request_and_requests_do_not() -> None:
    with (
        serving([SmallPredictor()], request_timeout_s=0.3) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
        open_socket(server) as connection,
    ):
        assert client.get(SLOW).status_code == 504
        assert client.get(EVENTS, params={"pause_s": 0.4, "most": 3}).text.count("data: ") == 3
        connection.send("once")
        assert json.loads(connection.recv(timeout=30))["said"] == "once"


def test_a_stream_has_comments_while_nothing_happens(client: httpx.Client) -> None:
    told = client.get(EVENTS, params={"pause_s": 0.5, "most": 2})
    assert told.headers["content-type"].startswith("text/event-stream")
    assert told.text.startswith(": alive\n\n")
    assert told.text.count(": alive") >= 3
    assert [line for line in told.text.splitlines() if line.startswith("data: ")] == ["data: 0", "data: 1"]


def test_a_client_that_takes_nothing_any_more_is_let_go() -> None:
    small = SmallPredictor()
    with (
        serving([small], request_timeout_s=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        query = f"{EVENTS}?pause_s=0&size=100000"
        connection.sendall(f"GET {query} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert connection.recv(10)
        until(lambda: metric(client, "mistudio_streams_active") == 0)
        until(lambda: small.num_open == 0)


def test_when_the_server_ends_streams_end_at_once_and_are_told() -> None:
    small = SmallPredictor()
    with (
        serving([small]) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
        open_socket(server) as connection,
    ):
        connection.send("once")
        connection.recv(timeout=30)
        with client.stream("GET", EVENTS) as events:
            lines = events.iter_lines()
            assert next(lines)
            server.stop()
            told = [line for line in lines if line.startswith("data: ")]
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert "about to end" in json.loads(told[-1].removeprefix("data: "))["error"]
    assert small.num_open == 0
    assert small.is_closed


def test_events_get_in_while_all_places_of_requests_are_taken_and_whatever_the_rate() -> None:
    small = SmallPredictor()
    with (
        serving([small], max_requests=1, max_sink_bytes=5000, requests_per_minute=0.01, burst=1) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        waiting = threading.Thread(target=lambda: httpx.get(url_of(server) + SLOW, timeout=60))
        waiting.start()
        until(lambda: metric(client, "mistudio_requests_active") == 1)
        assert client.get("/describe").status_code == 429
        assert [client.post(SINK, content=b"event").status_code for _ in range(20)] == [202] * 20
        assert client.post(SINK, content=b"x" * 6000).status_code == 413
        assert server._loop is not None
        small.answer(server._loop)
        waiting.join(60)
    assert small.sunk == [b"event"] * 20


def test_a_sink_has_so_many_places_and_each_for_so_long() -> None:
    with (
        serving([SmallPredictor()], max_sinks=1, request_timeout_s=0.5) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
        socket.create_connection(("127.0.0.1", server.port)) as slow,
    ):
        slow.sendall(f"POST {SINK} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n".encode())
        until(lambda: client.post(SINK, content=b"event").status_code == 429)
        assert slow.recv(1000).startswith(b"HTTP/1.1 504 ")
        assert client.post(SINK, content=b"event").status_code == 202


def test_a_key_for_events_sends_events_and_nothing_else() -> None:
    with serving([SmallPredictor()], two_keys(), sink_keys=("events",)) as server:
        # As KServe's payload logger sends a key: it is told an address alone, and Go makes this of it.
        with httpx.Client(base_url=f"http://events:{OTHER}@127.0.0.1:{server.port}", timeout=60) as client:
            assert client.post(SINK, content=b"event").status_code == 202
            assert client.get("/describe").status_code == 403
            assert client.get(EVENTS).status_code == 403
        assert refusal(server, headers={"authorization": f"Bearer {OTHER}"})[0] == 403
        wrong = httpx.post(f"http://alice:{OTHER}@127.0.0.1:{server.port}{SINK}", content=b"event")
        assert wrong.status_code == 401
        assert httpx.post(url_of(server) + SINK, content=b"event").status_code == 401


def test_an_open_sink_takes_events_without_a_key_but_none_with_a_wrong_one_and_all_else_needs_one() -> None:
    with (
        serving([SmallPredictor()], two_keys(), open_sink=True) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        assert client.post(SINK, content=b"event").status_code == 202
        assert client.post(SINK, content=b"event", headers={"authorization": "Bearer x"}).status_code == 401
        assert [client.get(path).status_code for path in (EVENTS, SLOW, "/describe")] == [401] * 3


def test_a_key_for_events_that_there_is_not_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="no key of that name"):
        ModelServer([SmallPredictor()], ServerSettings(port=0, sink_keys=("others",)), two_keys())


def test_no_key_nor_query_of_a_websocket_is_logged() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        configure_logging("debug", stream)
        with serving([SmallPredictor()], two_keys()) as server:
            for path in (SOCKET, f"{SOCKET}?text=a-diary"):
                with open_socket(server, path, offered=("bearer", ENCODED)) as connection:
                    connection.send("another-diary")
                    connection.recv(timeout=30)
            assert refusal(server, f"{SOCKET}?text=a-diary")[0] == 401
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("route") == SOCKET]
    assert [(line["method"], line["status"], line["key"]) for line in told] == [("WEBSOCKET", 101, "alice")] * 2
    for text in (SECRET, ENCODED, "a-diary", "another-diary"):
        assert text not in stream.getvalue()
