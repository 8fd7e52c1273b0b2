"""A real sink for events on the loopback interface, which keeps what it gets and can be held up."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Received(NamedTuple):
    path: str
    headers: dict[str, str]  # names in small letters
    body: bytes


class EventSink:
    """To be used in a ``with`` block.

    Attributes:
        received: in the order in which it came.
        go: cleared, requests wait for it before they are answered.
        status: of all answers.
    """

    def __init__(self, status: int = 202, location: str = "") -> None:
        self.received: list[Received] = []
        self.go = threading.Event()
        self.go.set()
        self.status, self.location = status, location
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.sink = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def wait_for(self, count: int) -> list[Received]:
        """All, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= count, 30), len(self.received)
            return list(self.received)

    def take(self, received: Received) -> None:
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()
        self.go.wait(60)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sink: EventSink = self.server.sink  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        sink.take(Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(sink.status)
        if sink.location:
            self.send_header("location", sink.location)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass
