"""The sink: POST /v1/monitor/events takes what payload loggers send, and answers at once.

A slow sink grows the watched pod, so nothing here waits but for the body: an event in binary mode is put where it waits
by the event loop itself; only what has to be parsed first goes to a thread, which nothing else uses.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mistudio.plain_text import shortened
from model_servers.base.problems import ClientLeft, wrong
from model_servers.base.replies import JSONReply
from model_servers.monitor.served import Served

if TYPE_CHECKING:
    from mistudio.monitor.events import EventsRead

PATH = "/v1/monitor/events"
_STRUCTURED = "application/cloudevents"
_PARSED_AT_ONCE = 1 << 14  # bytes of JSON that take less time than a thread does to begin
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
        monitor = self._served.monitor()
        headers = {name.lower(): value for name, value in request.headers.items()}
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        is_structured = kind.startswith(_STRUCTURED)
        if not is_structured and not any(name in headers for name in _REQUIRED):
            monitor.note_malformed()
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
        if is_structured and len(body) > _PARSED_AT_ONCE:
            found = await self._served.take(lambda monitor: monitor.take(headers, body))
        else:
            found = monitor.take(headers, body)
        return JSONReply(_told(found), 202)


def _told(found: "EventsRead") -> dict[str, object]:
    return {"taken": len(found.events), "ignored": found.num_ignored, "refused": list(found.refused[:8])}
