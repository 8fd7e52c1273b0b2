"""The client that waits."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, Unpack

import httpx

from mistudio.client.calls import Asked, Call, MessageLike, checked, generation, unreachable, wait_s
from mistudio.client.events import EventReader
from mistudio.client.look_ups import LookUps
from mistudio.client.monitoring import Monitor, Streaming
from mistudio.client.replies import Piece, Text, pieces_of, texts_of
from mistudio.errors import NotFound

_AGAIN = (429, 503)


class Client:
    """Asks a server for text; close it, or use it in a ``with`` block. Threads may share one.

    Args:
        url: where the server is.
        key: its bearer key, where it asks for one.
        model: name of the model; None: the only one that is served.
        timeout_s: for which an answer is waited.
        retries: times that a busy server is asked again, after the time that it names.

    Attributes:
        correlate: look-ups of features, by text, concept, token, feature, examples and vector.
        monitor: the watch on traffic: alerts, drift, history, rules, and a live stream.
    """

    def __init__(
        self, url: str, key: str | None = None, *, model: str | None = None, timeout_s: float = 300, retries: int = 3
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        self._url, self._model, self._retries = url, model, retries
        self.correlate = LookUps(self._post)
        self.monitor = Monitor(self._send, self._open_stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def describe(self) -> Mapping[str, Any]:
        """What is served: subject, autoencoders, hook points, edits, limits.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        found: Mapping[str, Any] = self._get("/describe")
        return found

    def models(self) -> list[str]:
        """Names of the models.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return [str(model["id"]) for model in self._get("/openai/v1/models")["data"]]

    def is_ready(self) -> bool:
        """Whether the server answers, and has loaded its models."""
        try:
            return self._http.get("/v2/health/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def complete(self, prompt: str | Sequence[int], **asked: Unpack[Asked]) -> Text:
        """What follows a prompt; of several answers (``n``) the first: see :meth:`generate`.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return self.generate(prompt, **asked)[0]

    def chat(self, messages: Sequence[MessageLike], **asked: Unpack[Asked]) -> Text:
        """What the assistant says next in a chat.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return self.generate(messages=messages, **asked)[0]

    def generate(
        self,
        prompt: str | Sequence[int] | None = None,
        messages: Sequence[MessageLike] | None = None,
        **asked: Unpack[Asked],
    ) -> list[Text]:
        """All answers to a prompt or a chat.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return texts_of(self._post(generation(self._name(), prompt, messages, asked, stream=False)))

    def stream(
        self,
        prompt: str | Sequence[int] | None = None,
        messages: Sequence[MessageLike] | None = None,
        **asked: Unpack[Asked],
    ) -> Iterator[Piece]:
        """The answers as they come; leaving early ends them at the server.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        call = generation(self._name(), prompt, messages, asked, stream=True)
        try:
            with self._http.stream("POST", call.path, json=call.body) as response:
                if response.is_error:
                    checked(response.status_code, response.headers, response.read())
                reader = EventReader()
                for some in response.iter_bytes():
                    for event in reader.events(some):
                        yield from pieces_of(event)
                reader.check_end()
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from error

    def _name(self) -> str:
        if self._model is None:
            names = self.models()
            if not names:
                message = f"The server at {self._url} serves no model that generates text."
                raise NotFound(message)
            self._model = names[0]
        return self._model

    def _get(self, path: str) -> Any:
        return self._asked(lambda: self._http.get(path))

    def _post(self, call: Call) -> Any:
        return self._asked(lambda: self._http.post(call.path, json=call.body))

    def _send(self, method: str, call: Call) -> Any:
        if method == "GET":
            return self._asked(lambda: self._http.get(call.path, params=call.body))
        return self._asked(lambda: self._http.request(method, call.path, json=call.body))

    @contextmanager
    def _open_stream(self, asked: Streaming) -> Iterator[httpx.Response]:
        try:
            with self._http.stream("GET", asked.path, params=asked.parameters) as response:
                yield response
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from error

    def _asked(self, ask: Callable[[], httpx.Response]) -> Any:
        for tries_left in range(self._retries, -1, -1):
            try:
                response = ask()
            except httpx.TransportError as error:
                raise unreachable(self._url, error) from error
            if response.status_code not in _AGAIN or not tries_left:
                break
            time.sleep(wait_s(response.headers))
        return checked(response.status_code, response.headers, response.content)
