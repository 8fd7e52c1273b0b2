"""The outermost layer: every request has an id, is counted and logged, and is answered whatever goes wrong within."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from model_servers.base.keys import NOBODY
from model_servers.base.logs import REQUEST_ID, REQUESTS, with_fields
from model_servers.base.metrics import Metrics
from model_servers.base.problems import problem_of, reply_of
from model_servers.base.websockets import close

HEADER = "x-request-id"
KEY_NAME = "x-key-name"  # what a model is told beside the request
_SANE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_QUIET = ("/v2/health/live", "/v2/health/ready", "/metrics")
_RECORD = "mistudio_record"
CLIENT_LEFT = 499
OPENED = 101  # the status of a WebSocket
_BEGINNINGS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


@dataclass
class Record:
    """What is known of a request while it is answered.

    Attributes:
        request_id: the client's, or one of ours.
        key: name of the key that asks.
        status: of the answer, once it began; 0 before.
        is_stream: it goes on as long as its client wants, so that its time says nothing of the server.
        spend: to be called for each further request on the same connection; raises ``Refused`` where the key asks
            too often.
        at_end: what is to be done when the request is over, however it ended.
    """

    request_id: str
    key: str = NOBODY
    status: int = 0
    is_stream: bool = False
    spend: Callable[[], None] = lambda: None
    at_end: list[Callable[[], None]] = field(default_factory=list)


def record_of(scope: Scope) -> Record:
    """The record of a request."""
    record = scope[_RECORD]
    assert isinstance(record, Record)  # noqa: S101 - the outermost layer puts it there
    return record


def request_id_from(given: str) -> str:
    """The id that a client gave, where it is a word; else a new one."""
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex


class Recording:
    """ASGI: ids, metrics, log lines, and answers to what nobody else answered."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        record = Record(request_id_from(header(scope, HEADER)))
        scope[_RECORD] = record
        REQUEST_ID.set(record.request_id)
        began = time.perf_counter()
        try:
            await self._answered(scope, receive, send, record)
        finally:
            for each in record.at_end:
                each()
            self._note(scope, record, time.perf_counter() - began)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        async def sending(message: Message) -> None:
            if message["type"] in _BEGINNINGS:
                record.status = message.get("status", OPENED)
                message["headers"] = [*message.get("headers", []), (HEADER.encode(), record.request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except WebSocketDisconnect:
            pass
        except Exception as error:
            if record.status == 0:
                await reply_of(problem_of(error), scope["path"])(scope, receive, sending)
            elif scope["type"] == "websocket":  # else the routes have answered, and logged it
                await _closed(send, error)

    def _note(self, scope: Scope, record: Record, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None)
        status = record.status or CLIENT_LEFT
        method = scope.get("method", "WEBSOCKET")
        self._metrics.count(route, method, status, None if record.is_stream else seconds)
        level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
        fields = {
            "method": method[:16],
            "route": route,
            "status": status,
            "key": record.key,
            "duration_ms": round(1000 * seconds, 1),
        }
        REQUESTS.log(level, "request", extra=with_fields(**fields))


async def _closed(send: Send, error: Exception) -> None:
    problem = problem_of(error)
    with suppress(Exception):  # where it is closed already, or nobody is there to be told
        await close(send, problem)


def header(scope: Scope, name: str) -> str:
    """The value of a header; empty where there is none."""
    wanted = name.encode()
    return next((value.decode("latin-1") for each, value in scope["headers"] if each == wanted), "")
