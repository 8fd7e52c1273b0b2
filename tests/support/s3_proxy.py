"""A proxy before a real S3 server that does to requests what networks and busy servers do.

It passes bytes on as they come, so that signatures stay right. A fault is a rule: for the next so many requests of a
method (and, if given, with a text in their first line) something else happens.
"""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

_BLOCK = 1 << 16
_BUSY_BODY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>"
_BUSY = b"HTTP/1.1 503 Busy\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
    _BUSY_BODY
)


@dataclass
class Rule:
    """What happens to requests.

    Attributes:
        fault: ``busy`` (503), ``reset`` (the connection breaks in the middle of what is sent), ``lost`` (the request is
            done, and its answer lost), ``cut`` (half of the answer arrives), ``slow`` (the answer comes in small
            pieces), ``stall`` (there is no answer).
        method: of the requests.
        times: how often.
        having: a text in the first line of the request.
    """

    fault: str
    method: str = "GET"
    times: int = 1
    having: str = ""


class Proxy:
    """Listens from the start of a block to its end.

    Attributes:
        url: where.
        seen: how many requests of each method came.
        done: how many faults of each kind happened.
        away: so many further connections and requests are broken off at once, as if there were no server.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream = ("127.0.0.1", upstream_port)
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.seen, self.done = Counter[str](), Counter[str]()
        self.away = 0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for each in (self._listener, *self._sockets):
            _shut(each)
        for thread in self._threads:
            thread.join(timeout=20)

    def add(self, *rules: Rule) -> None:
        """Let these happen to what comes next."""
        with self._lock:
            self._rules.extend(rules)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_away():
                _reset(client)
                continue
            self._sockets.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        """The one request of a connection; the server is asked to close it, so that its answer ends there."""
        with suppress(OSError), socket.create_connection(self._upstream) as server:
            self._sockets.append(server)
            self._pass_on(client, server)
        _shut(client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        head, rest = _head(client)
        first, _, others = head.partition(b"\r\n")
        method = first.split(b" ")[0].decode()
        fault = "reset" if self._is_away() else self._fault(method, first.decode("latin-1"))
        length = _length(head)
        if fault == "reset":
            _take(client, rest, length // 2)
            return _reset(client)
        body = rest + _take(client, b"", length - len(rest))
        if fault == "stall":
            self._ended.wait()
            return None
        if fault == "busy":
            return client.sendall(_BUSY + (b"" if method == "HEAD" else _BUSY_BODY))
        server.sendall(first + b"\r\nConnection: close\r\n" + others + body)
        if fault == "lost":
            _rest(server)
            return _reset(client)
        if fault == "cut":
            answer = _rest(server)
            return client.sendall(answer[: len(answer) // 2])
        while data := server.recv(_BLOCK):
            step = len(data) // 20 + 1 if fault == "slow" else len(data)
            for start in range(0, len(data), step):
                client.sendall(data[start : start + step])
                time.sleep(0.002 if fault == "slow" else 0)
        return None

    def _is_away(self) -> bool:
        with self._lock:
            self.away -= self.away > 0
            return self.away > 0

    def _fault(self, method: str, first: str) -> str:
        with self._lock:
            self.seen[method] += 1
            for rule in self._rules:
                if rule.method == method and rule.having in first:
                    rule.times -= 1
                    if rule.times <= 0:
                        self._rules.remove(rule)
                    self.done[rule.fault] += 1
                    return rule.fault
        return ""


def _head(source: socket.socket) -> tuple[bytes, bytes]:
    """The head of a request or answer, and what was read behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = source.recv(_BLOCK)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _take(source: socket.socket, data: bytes, length: int) -> bytes:
    """So many bytes, of which some were read already."""
    parts, count = [data], len(data)
    while count < length:
        more = source.recv(min(_BLOCK, length - count))
        if not more:
            raise OSError
        parts.append(more)
        count += len(more)
    return b"".join(parts)


def _rest(source: socket.socket) -> bytes:
    """All until the other side closes."""
    parts = []
    while data := source.recv(_BLOCK):
        parts.append(data)
    return b"".join(parts)


def _reset(connection: socket.socket) -> None:
    """Break a connection off, so that the other side is told at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
