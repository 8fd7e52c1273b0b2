"""The layer of streams: each ends when the server does, and when its client takes nothing any more."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_servers.base.problems import draining
from model_servers.base.state import ServerState
from model_servers.base.websockets import close, event_of

HEARTBEAT_S = 15.0
_HEARTBEAT = b": alive\n\n"  # a comment, which clients pass over
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_LAST_SECONDS = 1  # for telling a client that does not read


class Streaming:
    """ASGI: one stream, from its head to its end.

    Args:
        app: what streams.
        state: of the server.
        timeout_s: seconds that a client has to take a piece.
    """

    def __init__(self, app: ASGIApp, state: ServerState, timeout_s: float) -> None:
        self._app = app
        self._state = state
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One stream; it is cancelled when the server drains, and its client is told.

        Raises:
            Refused: the server is ending, and the stream had not begun.
        """
        pieces = _Pieces(send, self._timeout_s)
        streaming = asyncio.ensure_future(self._app(scope, receive, pieces.send))
        ending = [asyncio.ensure_future(each) for each in (self._state.drains(), pieces.stalls())]
        try:
            await asyncio.wait([streaming, *ending], return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
                return
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)
            if not pieces.is_stalled:
                await pieces.end(scope)
        finally:
            for each in (streaming, *ending):
                each.cancel()
            await asyncio.gather(streaming, *ending, return_exceptions=True)


class _Pieces:
    """What a stream sends, and whether its client still takes it."""

    def __init__(self, send: Send, timeout_s: float) -> None:
        self._send, self._timeout_s = send, timeout_s
        self._stalled = asyncio.Event()
        self._begun = ""
        self._is_over = False

    @property
    def is_stalled(self) -> bool:
        return self._stalled.is_set()

    async def stalls(self) -> None:
        """Wait until the client takes nothing any more."""
        await self._stalled.wait()

    async def send(self, message: Message) -> None:
        """A piece; where it is not taken in time, this waits to be cancelled."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept"):
            self._begun = kind
        self._is_over |= kind == "websocket.close" or (kind.endswith("response.body") and not message.get("more_body"))
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send(message)
        except TimeoutError:
            self._stalled.set()
            await asyncio.Event().wait()

    async def end(self, scope: Scope) -> None:
        """Tell the client that the server ends.

        Raises:
            Refused: it was told nothing yet, so that this can be the answer.
        """
        refusal = draining()
        if not self._begun:
            raise refusal
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                if self._begun == "websocket.accept" and not self._is_over:
                    await close(self._send, refusal.problem)
                elif not self._is_over:
                    event = event_of(refusal.problem, scope["path"])
                    await self._send({"type": "http.response.body", "body": event})


class EventStream(StreamingResponse):
    """An answer of server-sent events, with comments that keep it alive between them.

    Args:
        events: each whole, as ``data: ...`` and an empty line; closed when the answer ends, however it ends.
        heartbeat_s: seconds after which a comment is sent where there was no event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], heartbeat_s: float = HEARTBEAT_S) -> None:
        self._events = events
        self._parts = _with_heartbeats(events, heartbeat_s)
        super().__init__(self._parts, headers=_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer."""
        async with aclosing(self._events), aclosing(self._parts):
            await super().__call__(scope, receive, send)


async def _with_heartbeats(events: AsyncGenerator[bytes, None], heartbeat_s: float) -> AsyncGenerator[bytes]:
    yield _HEARTBEAT  # so that the head is not held back until something happens
    coming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait([coming], timeout=heartbeat_s)
            if not coming.done():
                yield _HEARTBEAT
                continue
            event = coming.result()
            if event is None:
                return
            coming = asyncio.ensure_future(anext(events, None))
            yield event
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
