"""The routes that are asked and answered: alerts, drift, history, rules and status under /v1/monitor."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mistudio.monitor.history.queries import AlertQuery, SampleQuery
from mistudio.monitor.live_events import alert_body, jsonable, origin_body
from mistudio.monitor.rules.rules import Rules
from model_servers.base.bodies import check_content_type, json_object, read_body
from model_servers.base.keys import NOBODY
from model_servers.base.openapi import body_of, reference
from model_servers.base.problems import ClientLeft
from model_servers.base.recording import record_of
from model_servers.base.replies import JSONReply
from model_servers.monitor.parsing import YAML, Acknowledged, read_fields, read_query, read_rules_body
from model_servers.monitor.queries import DriftAsked, parameters_of
from model_servers.monitor.served import Served

if TYPE_CHECKING:
    from mistudio.monitor.history.history import Seen
    from mistudio.monitor.service import MonitorService

BODIES = (Rules, Acknowledged)
_RULES_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": reference(Rules)}, "application/yaml": {"schema": reference(Rules)}},
    }
}


class Routes:
    """What can be asked of the monitor.

    Args:
        served: the predictor.
    """

    def __init__(self, served: Served) -> None:
        self._served = served

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/v1/monitor", tags=["monitor"])
        router.get("/status")(self.status)
        router.get("/alerts", openapi_extra=parameters_of(AlertQuery))(self.alerts)
        router.get("/history", openapi_extra=parameters_of(SampleQuery))(self.history)
        router.get("/drift", openapi_extra=parameters_of(DriftAsked))(self.drift)
        router.post("/acknowledge", openapi_extra=body_of(Acknowledged))(self.acknowledge)
        router.get("/rules")(self.rules)
        router.put("/rules", openapi_extra=_RULES_BODY)(self.put_rules)
        return router

    async def status(self) -> Response:
        """What is watched, what the monitor is at, and what it has counted."""

        def work(monitor: "MonitorService") -> dict[str, Any]:
            stats = self._served.stats()
            counts = {} if stats is None else asdict(stats)
            return {"is_alive": monitor.is_alive, **monitor.description(), "counts": counts}

        return JSONReply(jsonable(await self._served.read(work)))

    async def alerts(self, request: Request) -> Response:
        """Alerts, the newest first."""
        asked = read_query(AlertQuery, request.query_params)
        found = await self._served.read(lambda monitor: monitor.history.alerts(**asked.model_dump()))
        return JSONReply({"alerts": [alert_body(alert) for alert in found]})

    async def history(self, request: Request) -> Response:
        """Samples that were read, the newest first; ``next`` is what to give as ``before`` for the next page."""
        asked = read_query(SampleQuery, request.query_params)
        found = await self._served.read(lambda monitor: monitor.history.samples(**asked.model_dump()))
        following = found[-1].number if len(found) == asked.limit else None
        return JSONReply(jsonable({"samples": [sample_body(each) for each in found], "next": following}))

    async def drift(self, request: Request) -> Response:
        """Features and columns that fire otherwise than before, those that changed most first."""
        asked = read_query(DriftAsked, request.query_params)
        changes, groups = await self._served.read(lambda monitor: monitor.judging.ranked(asked.count, asked.group))
        return JSONReply(jsonable({"changes": [asdict(change) for change in changes], "streams": groups}))

    async def acknowledge(self, request: Request) -> Response:
        """Say that what was told was seen, so that it can be told again; or that it is usual from now on."""
        body = await read_body(request)
        asked, by = read_fields(Acknowledged, json_object(body)), _asker(request)

        def work(monitor: "MonitorService") -> dict[str, Any]:
            found: dict[str, Any] = {}
            if asked.alert is not None:
                found["alert"] = alert_body(monitor.history.acknowledge(asked.alert))
            if asked.alert is None or asked.watched or asked.group is not None or asked.rebaseline:
                found["changes"] = monitor.judging.acknowledge_drift(
                    asked.watched, asked.group, by, rebaseline=asked.rebaseline
                )
            return found

        return JSONReply(await self._served.read(work))

    async def rules(self) -> Response:
        """The rules that hold, and what each has met."""
        return JSONReply(jsonable(await self._served.read(lambda monitor: monitor.rules_status())))

    async def put_rules(self, request: Request) -> Response:
        """Judge by other rules from now on: all of them, or none where one is refused."""
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() not in YAML:
            check_content_type(kind, request.headers.get("content-encoding", ""))
        try:
            body = await request.body()
        except ClientDisconnect as error:
            raise ClientLeft from error
        by = _asker(request)

        def work(monitor: "MonitorService") -> dict[str, Any]:
            rules = read_rules_body(body, kind)
            note = monitor.put_rules(rules, by)
            return {"rules": len(rules.rules), "digest": rules.digest, "note": note.id}

        return JSONReply(await self._served.read(work))


def sample_body(one: "Seen") -> dict[str, Any]:
    """A sample of the history as JSON has it."""
    watched = {name: {"value": value, "token": one.places.get(name)} for name, value in one.watched.items()}
    fired = {
        uri: [{"feature": feature, "tokens": count, "max": largest} for feature, count, largest in features]
        for uri, features in one.fired.items()
    }
    body = {
        "number": one.number,
        "request": one.exchange,
        "sample": one.sample,
        "time": one.time,
        "origin": origin_body(one.origin),
        "tokens": one.num_tokens,
        "watched": watched,
        "features": fired,
    }
    return body if one.text is None else {**body, "text": one.text}


def _asker(request: Request) -> str:
    key = record_of(request.scope).key
    return "a client without a key" if key == NOBODY else f"key {key}"
