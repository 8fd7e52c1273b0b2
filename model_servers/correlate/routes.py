"""The routes of look-ups: POST /v1/correlate/text, /concept, /token, /feature, /examples and /vector."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from mistudio.correlate.queries import QUERIES
from model_servers.base.bodies import json_object, read_body
from model_servers.base.leaving import while_connected
from model_servers.base.openapi import body_of
from model_servers.base.recording import HEADER, KEY_NAME, record_of
from model_servers.correlate.parsing import query_of
from model_servers.correlate.served import LookUp, Served


def look_up_routes(served: Served) -> APIRouter:
    """A route for each look-up.

    Args:
        served: the predictor.
    """
    router = APIRouter(prefix="/v1/correlate", tags=["look-ups"])
    for name, query in QUERIES.items():
        summary = (query.__doc__ or "").splitlines()[0]
        router.post(f"/{name}", summary=summary, openapi_extra=body_of(query))(_route(served, name))
    return router


def _route(served: Served, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def look_up(request: Request) -> Response:
        body = await read_body(request)
        record = record_of(request.scope)
        asked = LookUp(name, lambda: query_of(name, json_object(body)))
        work = served.answers([asked], {HEADER: record.request_id, KEY_NAME: record.key})
        (reply,) = await while_connected(request, work)
        return Response(reply, media_type="application/json")

    look_up.__name__ = f"look_up_{name}"
    return look_up
