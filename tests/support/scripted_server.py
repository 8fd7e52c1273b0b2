"""A real HTTP server on the loopback interface that speaks the OpenAI API and behaves as a test scripts it.

It answers chat completions, completions with echo and embeddings through an ``Answerer``, and before that asks the
script whether this request is to go wrong. Everything it was asked is in its log, with what became of it.
"""

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol, Self

Considered = Sequence[tuple[str, Sequence[tuple[str, float]]]]  # tokens, and for each what else could stand there


class Answer(NamedTuple):
    """Text, and the tokens that it consists of, where log-probabilities are to be reported."""

    text: str
    tokens: Considered | None = None


class Answerer(Protocol):
    def chat(self, system: str, prompt: str) -> Answer: ...

    def losses(self, text: str) -> list[tuple[str, float]]:
        """Tokens of a text and their log-probabilities."""
        ...

    def embed(self, text: str) -> list[float]: ...


class Fault(NamedTuple):
    """What goes wrong: ``status`` with headers, ``reset``, ``garbage``, ``half``, ``hollow``, ``length``.

    ``body`` answers with ``content`` instead, and ``drip`` so slowly that it would take hours.
    """

    kind: str
    status: int = 500
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "scripted"
    delay_s: float = 0.0
    content: bytes = b""


class Asked(NamedTuple):
    path: str
    prompt: str
    body: dict[str, Any]
    key: str
    outcome: str  # answered, or the kind of fault
    prompt_tokens: int = 0
    completion_tokens: int = 0


Script = Callable[[str, int], Fault | None]  # a prompt and how often it was asked before


class ScriptedServer:
    """To be used in a ``with`` block; ``url`` is the base URL of its API."""

    def __init__(self, answerer: Answerer, script: Script = lambda _prompt, _attempt: None) -> None:
        self.answerer, self.script = answerer, script
        self.asked: list[Asked] = []
        self.most_at_once = self._at_once = 0
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.script = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def answered(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.outcome in ("answered", "length")]

    def respond(self, path: str, body: dict[str, Any], key: str) -> tuple[Fault | None, bytes]:
        """What goes wrong, if anything, and the body of the response."""
        prompt = _prompt_of(body)
        with self._lock:
            attempt = self._attempts[prompt]
            self._attempts[prompt] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            fault = self.script(prompt, attempt)
            if fault and fault.delay_s:
                time.sleep(fault.delay_s)
            if fault and fault.kind != "length":
                self._log(Asked(path, prompt, body, key, fault.kind))
                return fault, json.dumps({"error": {"message": fault.message}}).encode()
            content, usage = self._content(path, body, cut=fault is not None)
            self._log(Asked(path, prompt, body, key, fault.kind if fault else "answered", *usage))
            return fault, json.dumps(content).encode()
        finally:
            with self._lock:
                self._at_once -= 1

    def _log(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def _content(self, path: str, body: dict[str, Any], *, cut: bool) -> tuple[dict[str, Any], tuple[int, int]]:
        if path.endswith("/chat/completions"):
            return self._chat(body, cut=cut)
        if path.endswith("/embeddings"):
            texts = body["input"]
            data = [{"index": n, "embedding": self.answerer.embed(text)} for n, text in enumerate(texts)]
            tokens = sum(len(text.split()) for text in texts)
            return {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, (tokens, 0)
        tokens = [*self.answerer.losses(body["prompt"]), (" more", -1.0)]
        logprobs = {
            "tokens": [text for text, _ in tokens],
            "token_logprobs": [None, *(value for _, value in tokens[1:])],
        }
        choice = {"index": 0, "text": body["prompt"] + " more", "logprobs": logprobs, "finish_reason": "length"}
        return {"choices": [choice], "usage": _usage(len(tokens) - 1, 1)}, (len(tokens) - 1, 1)

    def _chat(self, body: dict[str, Any], *, cut: bool) -> tuple[dict[str, Any], tuple[int, int]]:
        system, prompt = (message["content"] for message in body["messages"])
        answer = self.answerer.chat(system, prompt)
        text = answer.text[: len(answer.text) // 2] if cut else answer.text
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length" if cut else "stop",
        }
        if body.get("logprobs") and answer.tokens is not None and not cut:
            choice["logprobs"] = {"content": [_token(*token) for token in answer.tokens]}
        counts = (len(prompt.split()), len(text.split()))
        return {"choices": [choice], "usage": _usage(*counts)}, counts


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    script: ScriptedServer

    def handle_error(self, _request: object, _address: object) -> None:
        """Clients of these tests hang up on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fault, content = self.server.script.respond(self.path, body, self.headers.get("authorization", ""))
        kind = fault.kind if fault else ""
        if kind == "reset":
            # Lingering for no time makes the kernel send a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if kind == "garbage":
            content = b"<html>no JSON at all"
        elif kind == "hollow":
            content = b'{"choices": []}'
        elif kind in ("body", "drip") and fault:
            content = fault.content
        self.send_response(fault.status if kind == "status" and fault else 200)
        for name, value in fault.headers if fault else ():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(1_000_000 if kind == "drip" else len(content)))
        self.end_headers()
        while kind == "drip":
            self.wfile.write(b" ")
            time.sleep(0.02)
        self.wfile.write(content[: len(content) // 2] if kind == "half" else content)
        self.close_connection = self.close_connection or kind == "half"

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


def _prompt_of(body: dict[str, Any]) -> str:
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    return str(body.get("prompt") or "\n".join(body["input"]))


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _token(text: str, considered: Sequence[tuple[str, float]]) -> dict[str, Any]:
    own = dict(considered).get(text, -0.01)
    others = [{"token": other, "logprob": logprob} for other, logprob in considered]
    return {"token": text, "logprob": own, "top_logprobs": others}
