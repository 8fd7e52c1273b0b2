"""The layers between the network and the routes: who may ask, how much, how large, and for how long."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_servers.base.access import Access
from model_servers.base.lanes import Lane, lane_of
from model_servers.base.problems import reply_of, timed_out, wrong
from model_servers.base.recording import header, record_of
from model_servers.base.settings import ServerSettings
from model_servers.base.state import ServerState
from model_servers.base.streaming import Streaming
from model_servers.base.websockets import SUBPROTOCOL, drop_key, event_of, offered_keys

_SINK_TIMEOUT_S = 10.0  # an event comes at once, or its sender holds a place for nothing


class Guarding:
    """ASGI: keys and rates first, then the server's state, then the body's size and the time.

    What is refused is raised, for the outermost layer to answer.

    Args:
        app: the routes.
        access: who may ask.
        state: of the server.
        settings: of the server.
        lanes: paths that are streams or sinks.
    """

    def __init__(
        self, app: ASGIApp, access: Access, state: ServerState, settings: ServerSettings, lanes: Mapping[str, Lane]
    ) -> None:
        sized, timeout_s = Sized(app, settings.max_body_bytes), settings.request_timeout_s
        self._public = sized
        self._by_lane: dict[Lane, ASGIApp] = {
            Lane.REQUEST: Timed(sized, timeout_s),
            Lane.STREAM: Streaming(Timed(sized, timeout_s, until_it_begins=True), state, timeout_s),
            Lane.SINK: Timed(Sized(app, settings.max_sink_bytes), min(_SINK_TIMEOUT_S, timeout_s)),
        }
        self._access, self._state, self._lanes = access, state, lanes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one connection of a WebSocket.

        Raises:
            Refused: it does not pass.
        """
        is_socket = scope["type"] == "websocket"
        if not is_socket and self._access.is_public(scope["path"]):
            await self._public(scope, receive, send)
            return
        lane = lane_of(scope, self._lanes)
        self._access.check_host(header(scope, "host"))
        if lane is Lane.STREAM:
            self._access.check_origin(header(scope, "origin"), header(scope, "host"))
        self._identify(scope, lane)
        with self._state.request(lane):
            if is_socket and offered_keys(scope):
                drop_key(scope)
                send = _with_subprotocol(send)
            await self._by_lane[lane](scope, receive, send)

    def _identify(self, scope: Scope, lane: Lane) -> None:
        record = record_of(scope)
        record.is_stream = lane is Lane.STREAM
        record.key = self._access.name_of(header(scope, "authorization"), lane, offered_keys(scope))
        record.spend = lambda: self._access.spend(record.key)


class Sized:
    """ASGI: bodies up to a size; the web server sees to that of a WebSocket's messages."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; one that says that it is too large is refused before it is read.

        Raises:
            Refused: it is too large.
        """
        said = header(scope, "content-length")
        if said.isdecimal() and len(said) < 19 and int(said) > self._max_bytes:
            self._refuse()
        num_bytes = 0

        async def receiving() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
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

    An answer of events that has begun ends with an event that says so.

    Args:
        app: what answers.
        timeout_s: the time.
        until_it_begins: the time holds until the answer begins, and no longer.
    """

    def __init__(self, app: ASGIApp, timeout_s: float, *, until_it_begins: bool = False) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._until_it_begins = until_it_begins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        content_type: bytes | None = None

        async def sending(message: Message) -> None:
            nonlocal content_type
            if message["type"] in ("http.response.start", "websocket.accept"):
                content_type = dict(message.get("headers", [])).get(b"content-type", b"")
                if self._until_it_begins:
                    limit.reschedule(None)
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
                event = event_of(problem, scope["path"])
                with suppress(TimeoutError):  # a client that does not read gets no more
                    await asyncio.wait_for(send({"type": "http.response.body", "body": event}), 1)


def _with_subprotocol(send: Send) -> Send:
    """Accept a WebSocket by the subprotocol that its client has to hear of."""

    async def sending(message: Message) -> None:
        if message["type"] == "websocket.accept":
            message = {**message, "subprotocol": SUBPROTOCOL}
        await send(message)

    return sending
