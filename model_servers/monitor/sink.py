"""The sink: POST /v1/monitor/events takes what payload loggers send, and answers at once.

A slow sink grows the watched pod, so nothing here waits but for the body: an event in binary mode is put where it waits
by the event loop itself; only what has to be parsed first goes to a thread, which nothing else uses.
"""

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mistudio.errors import Busy
from mistudio.monitor.traffic.events import EventRefused, EventsRead
from mistudio.plain_text import shortened
from model_servers.base.problems import ClientLeft, wrong
from model_servers.base.replies import JSONReply
from model_servers.monitor.served import Served

PATH = "/v1/monitor/events"
_STRUCTURED = "application/cloudevents"
_PARSED_AT_ONCE = 1 << 14  # bytes of JSON that take less time than a thread does to begin
_MOST_TOLD = 8  # reasons, of a batch's events that were refused
_REQUIRED = ("ce-type", "ce-id", "ce-source", "ce-specversion")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"description": "the payload of an event in binary mode"}},
            "application/cloudevents+json": {"schema": {"type": "object"}},
            "application/cloudevents-batch+json": {"schema": {"type": "array", "items": {"type": "object"}}},
        },
    },
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in _REQUIRED
    ],
}
Forward = Callable[[Request, bytes], None]


class Sink:
    """The route.

    Args:
        served: the predictor.
        forward: passes an event on, without waiting.
    """

    def __init__(self, served: Served, forward: Forward) -> None:
        self._served, self._forward = served, forward

    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter(tags=["monitor"])
        router.post(PATH, status_code=202, openapi_extra=_BODY)(self.events)
        return router

    async def events(self, request: Request) -> Response:
        """Take CloudEvents: one in binary or structured mode, or a batch."""
        inlet = self._served.inlet
        headers = {name.lower(): value for name, value in request.headers.items()}
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_structured = kind.startswith(_STRUCTURED)
        if not is_structured and not any(name in headers for name in _REQUIRED):
            inlet.note("malformed")
            message = (
                f"Content-Type is {shortened(kind)}, and there are no ce-* headers: send a CloudEvent, as headers with "
                "its payload as body, as application/cloudevents+json, or as application/cloudevents-batch+json."
            )
            raise wrong(message, code="unsupported_media_type", status=415)
        try:
            body = await request.body()
        except ClientDisconnect as error:
            raise ClientLeft from error
        self._forward(request, body)
        try:
            found = await self._taken(headers, body, is_large=is_structured and len(body) > _PARSED_AT_ONCE)
        except Busy:
            inlet.note("overrun")
            return JSONReply({"taken": 0, "ignored": 0, "refused": [], "overrun": 1}, 202)
        except EventRefused:
            inlet.note("malformed")
            raise
        refused = list(found.refused[:_MOST_TOLD])
        return JSONReply({"taken": len(found.events), "ignored": found.num_ignored, "refused": refused}, 202)

    async def _taken(self, headers: Mapping[str, str], body: bytes, *, is_large: bool) -> EventsRead:
        """What is read of a body; where it takes a while, by a thread.

        Raises:
            EventRefused: it holds no event.
            Busy: more is to be read than may wait for that.
        """
        if is_large:
            return await self._served.take(headers, body)
        return self._served.inlet.take(headers, body)
