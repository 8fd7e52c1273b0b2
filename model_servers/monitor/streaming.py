"""The live stream: GET /v1/monitor/stream, as server-sent events or as a WebSocket.

On a WebSocket a client may also send a conversation piece by piece, and gets back the values of its tokens:
``{"text": "Once upon"}`` goes on with the text, ``{"messages": [...]}`` is a chat in its place,
``{"begin_again": true}`` forgets it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, WebSocket
from pydantic import Field, model_validator
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from mistudio.errors import Busy, InputError
from mistudio.instrument.messages import Message
from mistudio.monitor.live import Wanted
from mistudio.settings import Settings
from model_servers.base.bodies import json_object
from model_servers.base.lanes import Lane
from model_servers.base.problems import Refused, problem_of, wrong
from model_servers.base.recording import record_of
from model_servers.base.replies import json_bytes
from model_servers.base.streaming import EventStream
from model_servers.monitor.parsing import read_fields, wanted
from model_servers.monitor.queries import parameters_of
from model_servers.monitor.served import Served

if TYPE_CHECKING:
    from mistudio.monitor.conversation import Conversation
    from mistudio.monitor.live import Follower
    from mistudio.monitor.service import MonitorService

PATH = "/v1/monitor/stream"
LANES = {PATH: Lane.STREAM}
_PIECES_WAITING = 64
_MOST_DIGITS = 18


class Piece(Settings):
    """What a client sends on a WebSocket."""

    text: str | None = Field(None, max_length=1 << 20, description="what the text goes on with")
    messages: tuple[Message, ...] | None = Field(None, min_length=1, max_length=1024, description="a chat, whole")
    begin_again: bool = Field(False, description="forget what was sent before")

    @model_validator(mode="after")
    def _is_one(self) -> "Piece":
        if (self.text is not None) + (self.messages is not None) + self.begin_again != 1:
            message = "send text, messages or begin_again, one of the three"
            raise ValueError(message)
        return self


class Streams:
    """The route.

    Args:
        served: the predictor.
    """

    def __init__(self, served: Served) -> None:
        self._served = served

    def router(self) -> APIRouter:
        """The route, for both kinds of stream."""
        router = APIRouter(tags=["monitor"])
        parameters = parameters_of(Wanted, last_event_id="id of the last event that is known already")
        router.get(PATH, openapi_extra=parameters)(self.events)
        router.websocket(PATH)(self.socket)
        return router

    async def events(self, request: Request) -> Response:
        """What is read and told, as it comes: server-sent events."""
        last = _last_event(request.headers.get("last-event-id") or request.query_params.get("last_event_id"))
        following = _Following(self._served.monitor(), wanted(request.query_params), last)
        record_of(request.scope).at_end.append(following.leave)
        return EventStream(_sse(following, self._served))

    async def socket(self, websocket: WebSocket) -> None:
        """The same, as messages of JSON; and conversations that the client sends."""
        monitor, query = self._served.monitor(), websocket.query_params
        following: _Following | None = None
        if query.get("follow", "true") != "false":
            following = _Following(monitor, wanted(query), _last_event(query.get("last_event_id")))
            record_of(websocket.scope).at_end.append(following.leave)
        await websocket.accept()
        await _Socket(websocket, self._served, monitor.conversation(), following).run()


class _Following:
    """One who follows, on the event loop."""

    def __init__(self, monitor: "MonitorService", wants: Wanted, last: int | None) -> None:
        self._monitor, self._wants, self._last = monitor, wants, last
        self._has_some = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._has_some.set)

        self._follower: Follower = monitor.live.follow(wants, wake)

    def leave(self) -> None:
        """Follow no more."""
        self._monitor.live.leave(self._follower)

    async def told(self, served: Served) -> AsyncGenerator[dict[str, Any], None]:
        """What was missed since the last event that is known, then all that comes."""
        known = -1
        if self._last is not None:
            last = self._last
            missed = await served.read(lambda monitor: monitor.missed(self._wants, last))
            for event in missed:
                known = max(known, int(event.get("id", -1)))
                yield event
        while True:
            await self._has_some.wait()
            self._has_some.clear()
            for event in await asyncio.to_thread(self._follower.take):
                if int(event.get("id", known + 1)) > known:
                    yield event


async def _sse(following: _Following, served: Served) -> AsyncGenerator[bytes, None]:
    async for event in following.told(served):
        head = f"id: {event['id']}\n" if "id" in event else ""
        yield f"{head}event: {event['kind']}\ndata: ".encode() + json_bytes(event) + b"\n\n"


class _Socket:
    """One WebSocket: what is told goes out, and what the client sends comes in, at the same time."""

    def __init__(
        self, websocket: WebSocket, served: Served, conversation: "Conversation", following: _Following | None
    ) -> None:
        self._websocket, self._served = websocket, served
        self._conversation, self._following = conversation, following
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue(_PIECES_WAITING)
        self._next: Piece | None = None  # that was taken to look at it
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Until either side ends it."""
        tasks = [asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._answer())]
        if self._following is not None:
            tasks.append(asyncio.ensure_future(self._tell(self._following)))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        except WebSocketDisconnect:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell(self, following: _Following) -> None:
        async for event in following.told(self._served):
            await self._send(event)

    async def _receive(self) -> None:
        while True:
            sent = await self._websocket.receive()
            if sent["type"] == "websocket.disconnect":
                return
            try:
                text = sent.get("text")
                piece = read_fields(Piece, json_object((sent.get("bytes") or b"") if text is None else text.encode()))
            except (Refused, UnicodeEncodeError) as error:
                await self._send_problem(error)
                continue
            await self._pieces.put(piece)

    async def _answer(self) -> None:
        while True:
            piece, self._next = self._next or await self._pieces.get(), None
            try:
                record_of(self._websocket.scope).spend()
                told = await self._read(piece)
            except (InputError, Refused, Busy) as error:
                await self._send_problem(error)
                continue
            await self._send(told)

    async def _read(self, piece: Piece) -> dict[str, Any]:
        conversation = self._conversation
        if piece.begin_again:
            conversation.begin_again()
            return {"kind": "tokens", "from": 0, "tokens": []}
        if piece.messages is not None:
            messages = piece.messages
            return await self._served.run(lambda _monitor: conversation.chat(messages))
        text = (piece.text or "") + self._waiting_text()
        return await self._served.run(lambda _monitor: conversation.add(text))

    def _waiting_text(self) -> str:
        """Pieces of text that came meanwhile: they are read together."""
        more = []
        while not self._pieces.empty():
            self._next = self._pieces.get_nowait()
            if self._next.text is None:
                break
            more.append(self._next.text)
            self._next = None
        return "".join(more)

    async def _send(self, content: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_text(json_bytes(content).decode())

    async def _send_problem(self, error: Exception) -> None:
        problem = problem_of(error)
        await self._send({"kind": "error", "message": problem.message, "code": problem.code, "status": problem.status})


def _last_event(given: str | None) -> int | None:
    if not given:
        return None
    if not given.isdecimal() or len(given) > _MOST_DIGITS:
        message = "Last-Event-ID has to be the id of an event of this stream: leave it out to begin now."
        raise wrong(message, "last_event_id")
    return int(given)
