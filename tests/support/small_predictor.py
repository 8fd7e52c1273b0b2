"""A predictor without a model: routes of each kind that a server has, to try what lies between them and the network."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, WebSocket
from kserve import Model
from pydantic import BaseModel
from starlette.responses import Response

from mistudio.errors import InputError
from model_servers.base.lanes import Lane
from model_servers.base.metrics import Metrics
from model_servers.base.predictor import Predictor
from model_servers.base.recording import record_of
from model_servers.base.replies import JSONReply
from model_servers.base.streaming import EventStream

SOCKET, EVENTS, SINK, SLOW = "/small/socket", "/small/events", "/small/sink", "/small/slow"


class SmallPredictor(Predictor):
    """Echoes on a WebSocket, counts up in a stream, takes events, and is slow for as long as it is told to.

    Attributes:
        sunk: bodies that came to the sink.
        num_open: sockets and streams that are open.
        may_answer: set, by any thread, when slow requests may be answered.
    """

    name = "small"
    instance = BaseModel
    lanes = {SOCKET: Lane.STREAM, EVENTS: Lane.STREAM, SINK: Lane.SINK}

    def __init__(self) -> None:
        self.sunk: list[bytes] = []
        self.num_open = 0
        self.is_closed = False
        self._may_answer = asyncio.Event()

    def load(self) -> list[Model]:
        """Nothing to load."""
        return []

    def routers(self) -> list[APIRouter]:
        """Routes of each kind."""
        router = APIRouter()
        router.websocket(SOCKET)(self.socket)
        router.get(EVENTS)(self.events)
        router.post(SINK)(self.sink)
        router.get(SLOW)(self.slow)
        return [router]

    async def socket(self, websocket: WebSocket) -> None:
        """Say the same again; ``fail`` is the server's error, ``wrong`` the client's, ``spend`` one more request."""
        await websocket.accept()
        self.num_open += 1
        try:
            while True:
                said = await websocket.receive_text()
                if said == "fail":
                    raise KeyError(said)
                if said == "wrong":
                    message = "wrong is no word that is known here."
                    raise InputError(message)
                if said == "spend":
                    record_of(websocket.scope).spend()
                await websocket.send_json({"said": said, "headers": websocket.headers.keys()})
        finally:
            self.num_open -= 1

    async def events(self, pause_s: float = 0.02, most: int = 1_000_000, size: int = 1) -> Response:
        """Numbers, one after another."""
        return EventStream(self._numbers(pause_s, most, size), heartbeat_s=0.1)

    async def sink(self, request: Request) -> Response:
        """Take an event."""
        self.sunk.append(await request.body())
        return JSONReply({}, 202)

    async def slow(self) -> Response:
        """Wait until it may be answered."""
        await self._may_answer.wait()
        return JSONReply({})

    def register_metrics(self, metrics: Metrics) -> None:
        """None of its own."""

    def describe(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def drain(self, timeout_s: float) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Let go of nothing."""
        self.is_closed = True

    def answer(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer slow requests from now on."""
        loop.call_soon_threadsafe(self._may_answer.set)

    async def _numbers(self, pause_s: float, most: int, size: int) -> AsyncGenerator[bytes, None]:
        self.num_open += 1
        try:
            for number in range(most):
                yield f"data: {number}{' ' * (size - 1)}\n\n".encode()
                await asyncio.sleep(pause_s)
        finally:
            self.num_open -= 1
