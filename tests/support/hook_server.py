"""A real HTTP server on the loopback interface that takes webhooks, and behaves as a test scripts it."""

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

HANG = -1  # in place of a status: never answer


class Delivery(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: bytes


class HookServer:
    """To be used in a ``with`` block; ``answer`` gives the status for a delivery and how many came before."""

    def __init__(self, answer: Callable[[Delivery, int], int] = lambda _delivery, _before: 204) -> None:
        self.deliveries: list[Delivery] = []
        self.location = "http://127.0.0.1:1/inside"
        self._answer, self._came, self._end = answer, threading.Condition(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, count: int, timeout_s: float = 30.0) -> list[Delivery]:
        """The first so many deliveries, when they are there."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.deliveries) >= count, timeout_s), self.deliveries
            return self.deliveries[:count]

    def take(self, delivery: Delivery) -> int:
        with self._came:
            before = len(self.deliveries)
            self.deliveries.append(delivery)
            self._came.notify_all()
        status = self._answer(delivery, before)
        if status == HANG:
            self._end.wait(60)
        return status


def _handler(server: HookServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status = server.take(Delivery(self.path, dict(self.headers.items()), body))
            if status == HANG:
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            return

    return Handler
