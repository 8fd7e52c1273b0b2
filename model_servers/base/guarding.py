"""The layers between the network and the routes: who may ask, how much, how large, and for how long."""

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_servers.base.access import Access
from model_servers.base.problems import content_of, reply_of, timed_out, wrong
from model_servers.base.recording import header, record_of
from model_servers.base.replies import json_bytes
from model_servers.base.settings import ServerSettings
from model_servers.base.state import ServerState


class Guarding:
    """ASGI: keys and rates first, then the server's state, then the body's size and the time.

    What is refused is raised, for the outermost layer to answer.
    """

    def __init__(self, app: ASGIApp, access: Access, state: ServerState, settings: ServerSettings) -> None:
        self._app = Timed(Sized(app, settings.max_body_bytes), settings.request_timeout_s)
        self._access = access
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request.

        Raises:
            Refused: it does not pass.
        """
        if scope["type"] != "http" or self._access.is_public(scope["path"]):
            await self._app(scope, receive, send)
            return
        self._access.check_host(header(scope, "host"))
        record_of(scope).key = self._access.name_of(header(scope, "authorization"))
        with self._state.request():
            await self._app(scope, receive, send)


class Sized:
    """ASGI: bodies up to a size."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; one that says that it is too large is refused before it is read.

        Raises:
            Refused: it is too large.
        """
        said = header(scope, "content-length") if scope["type"] == "http" else ""
        if said.isdecimal() and len(said) < 19 and int(said) > self._max_bytes:
            self._refuse()
        num_bytes = 0

        async def receiving() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                self._refuse()
            return message

        await self._app(scope, receiving, send)

    def _refuse(self) -> None:
        message = f"The body has more than {self._max_bytes:,} bytes, the most that are read: send less at once."
        raise wrong(message, code="request_too_large", status=413)


class Timed:
    """ASGI: requests up to a time, reading and answering included.

    A stream that has begun ends with an event that says so.
    """

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        content_type: bytes | None = None

        async def sending(message: Message) -> None:
            nonlocal content_type
            if message["type"] == "http.response.start":
                content_type = dict(message.get("headers", [])).get(b"content-type", b"")
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                await self._app(scope, receive, sending)
        except TimeoutError:
            if not limit.expired():
                raise
            problem = timed_out(self._timeout_s)
            if content_type is None:
                await reply_of(problem, scope["path"])(scope, receive, send)
            elif content_type.startswith(b"text/event-stream"):
                event = b"data: " + json_bytes(content_of(problem, scope["path"])) + b"\n\n"
                with suppress(TimeoutError):  # a client that does not read gets no more
                    await asyncio.wait_for(send({"type": "http.response.body", "body": event}), 1)
