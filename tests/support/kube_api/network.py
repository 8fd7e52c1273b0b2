"""The network of the cluster: names of Services that lead to servers of this machine, through an HTTP proxy.

A test sets HTTP_PROXY to its address, so that the code under test asks by the names that it would use in a cluster.
Traffic to one name can be split by weights, as a gateway does it, and a test can let requests fail on their way.
"""

import http.client
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

Weighted = list[tuple[int, str]]
_OWN = {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "content-length"}


class Network:
    """Names, and where they lead."""

    def __init__(self) -> None:
        self._routes: dict[str, Weighted] = {}
        self._failing: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._random = random.Random(0)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.network = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def route(self, host: str, *weighted: tuple[int, str]) -> None:
        """Let a name lead to servers by weight; to none: nowhere."""
        with self._lock:
            self._routes[host] = list(weighted)

    def fail(self, host: str, path: str = "", *, after: int = 0, status: int = 500) -> None:
        """From the request after so many on, fail those to a path of a name."""
        with self._lock:
            self._failing[f"{host}{path}"] = (after, status)

    def where(self, host: str, path: str) -> tuple[str, int]:
        """A server's address, or a status that the request fails with."""
        with self._lock:
            self.asked.append((host, path))
            for name in (f"{host}{path}", host):
                if name in self._failing:
                    after, status = self._failing[name]
                    if after <= 0:
                        return "", status
                    self._failing[name] = (after - 1, status)
            servers = self._routes.get(host) or []
            if not servers:
                return "", 502
            weights = [weight for weight, _ in servers]
            return self._random.choices([url for _, url in servers], weights)[0], 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    network: Network


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:  # noqa: N802
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address, failed = self.server.network.where(parts.hostname or "", parts.path)
        if failed:
            self._send(failed, b'{"error": {"message": "the network fails"}}', {"Content-Type": "application/json"})
            return
        target = urlsplit(address)
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN}
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(self.command, path, body or None, headers)
            answer = connection.getresponse()
            self._send(answer.status, answer.read(), dict(answer.getheaders()))
        except OSError:
            self._send(502, b"{}", {})
        finally:
            connection.close()

    do_POST = do_GET  # noqa: N815

    def _send(self, status: int, content: bytes, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""
