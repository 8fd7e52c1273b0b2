"""What the client makes of streams: real ones, from a server on the loopback interface that sends what it is told."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from mistudio.client import AsyncClient, Client
from mistudio.errors import MistudioError

Read = Callable[[str], list[str]]


@contextmanager
def sending(body: bytes, promised_bytes: int | None = None) -> Iterator[str]:
    """The URL of a server that answers each request with these bytes (of so many promised), then hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            if promised_bytes is not None:
                self.send_header("content-length", str(promised_bytes))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def waiting(url: str) -> list[str]:
    with Client(url, model="m") as client:
        return [piece.text for piece in client.stream("x")]


def not_waiting(url: str) -> list[str]:
    async def read() -> list[str]:
        async with AsyncClient(url, model="m") as client:
            return [piece.text async for piece in client.stream("x")]

    return asyncio.run(read())


@pytest.fixture(params=[waiting, not_waiting])
def read(request: pytest.FixtureRequest) -> Read:
    found: Read = request.param
    return found


def event(text: str) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None}
    return b"data: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


def test_a_text_with_characters_that_end_lines_elsewhere_is_read_as_it_is(read: Read) -> None:
    texts = ["a\u2028b", "\x85", "\u2029", "\x0b\x0c", "né 🐈"]
    with sending(b"".join(map(event, texts)) + b"data: [DONE]\n\n") as url:
        assert read(url) == texts


@pytest.mark.parametrize("end", [b"", b"data: [DO", b"\n\n"])
def test_a_stream_that_is_cut_is_no_whole_answer(read: Read, end: bytes) -> None:
    with sending(event("half") + end) as url, pytest.raises(MistudioError, match="broke off"):
        read(url)


@pytest.mark.parametrize("sent", [b"data: {half\n\n", b"data: 3\n\n"])
def test_what_is_no_event_is_an_error_that_says_so(read: Read, sent: bytes) -> None:
    with sending(sent) as url, pytest.raises(MistudioError, match="no event"):
        read(url)


def test_a_connection_that_breaks_off_is_told_from_a_server_that_is_not_there(read: Read) -> None:
    with sending(b"data: ", promised_bytes=100) as url, pytest.raises(MistudioError, match="broke off"):
        read(url)
    with pytest.raises(MistudioError, match="No server answers"):
        read("http://127.0.0.1:1")
