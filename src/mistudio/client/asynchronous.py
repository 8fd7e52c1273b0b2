"""The client that lets others go on while it waits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, Unpack

import httpx

from mistudio.client.calls import Asked, Call, MessageLike, checked, generation, unreachable, wait_s
from mistudio.client.events import EventReader
from mistudio.client.look_ups import AsyncLookUps
from mistudio.client.monitoring import AsyncMonitor, Streaming
from mistudio.client.replies import Piece, Text, pieces_of, texts_of
from mistudio.errors import NotFound

_AGAIN = (429, 503)


class AsyncClient:
    """Asks a server for text; close it, or use it in an ``async with`` block. Tasks may share one.

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
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_s)
        self._url, self._model, self._retries = url, model, retries
        self.correlate = AsyncLookUps(self._post)
        self.monitor = AsyncMonitor(self._send, self._open_stream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def describe(self) -> Mapping[str, Any]:
        """What is served: subject, autoencoders, hook points, edits, limits.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        found: Mapping[str, Any] = await self._get("/describe")
        return found

    async def models(self) -> list[str]:
        """Names of the models.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return [str(model["id"]) for model in (await self._get("/openai/v1/models"))["data"]]

    async def is_ready(self) -> bool:
        """Whether the server answers, and has loaded its models."""
        try:
            return (await self._http.get("/v2/health/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def complete(self, prompt: str | Sequence[int], **asked: Unpack[Asked]) -> Text:
        """What follows a prompt; of several answers (``n``) the first: see :meth:`generate`.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return (await self.generate(prompt, **asked))[0]

    async def chat(self, messages: Sequence[MessageLike], **asked: Unpack[Asked]) -> Text:
        """What the assistant says next in a chat.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return (await self.generate(messages=messages, **asked))[0]

    async def generate(
        self,
        prompt: str | Sequence[int] | None = None,
        messages: Sequence[MessageLike] | None = None,
        **asked: Unpack[Asked],
    ) -> list[Text]:
        """All answers to a prompt or a chat.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        return texts_of(await self._post(generation(await self._name(), prompt, messages, asked, stream=False)))

    async def stream(
        self,
        prompt: str | Sequence[int] | None = None,
        messages: Sequence[MessageLike] | None = None,
        **asked: Unpack[Asked],
    ) -> AsyncIterator[Piece]:
        """The answers as they come; leaving early ends them at the server.

        Raises:
            MistudioError: see ``mistudio.errors``.
        """
        call = generation(await self._name(), prompt, messages, asked, stream=True)
        try:
            async with self._http.stream("POST", call.path, json=call.body) as response:
                if response.is_error:
                    checked(response.status_code, response.headers, await response.aread())
                reader = EventReader()
                async for some in response.aiter_bytes():
                    for event in reader.events(some):
                        for piece in pieces_of(event):
                            yield piece
                reader.check_end()
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from error

    async def _name(self) -> str:
        if self._model is None:
            names = await self.models()
            if not names:
                message = f"The server at {self._url} serves no model that generates text."
                raise NotFound(message)
            self._model = names[0]
        return self._model

    async def _get(self, path: str) -> Any:
        return await self._asked(lambda: self._http.get(path))

    async def _post(self, call: Call) -> Any:
        return await self._asked(lambda: self._http.post(call.path, json=call.body))

    async def _send(self, method: str, call: Call) -> Any:
        if method == "GET":
            return await self._asked(lambda: self._http.get(call.path, params=call.body))
        return await self._asked(lambda: self._http.request(method, call.path, json=call.body))

    @asynccontextmanager
    async def _open_stream(self, asked: Streaming) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream("GET", asked.path, params=asked.parameters) as response:
                yield response
        except httpx.TransportError as error:
            raise unreachable(self._url, error) from error

    async def _asked(self, ask: Callable[[], Awaitable[httpx.Response]]) -> Any:
        for tries_left in range(self._retries, -1, -1):
            try:
                response = await ask()
            except httpx.TransportError as error:
                raise unreachable(self._url, error) from error
            if response.status_code not in _AGAIN or not tries_left:
                break
            await asyncio.sleep(wait_s(response.headers))
        return checked(response.status_code, response.headers, response.content)
