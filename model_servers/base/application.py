"""All of a server but the network: routes, layers, and the predictors' life."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from kserve import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from mistudio.errors import MistudioError
from mistudio.version import __version__
from model_servers.base.access import Access
from model_servers.base.guarding import Guarding
from model_servers.base.health import Health
from model_servers.base.inferring import Inferring
from model_servers.base.keys import Keys
from model_servers.base.logs import with_fields
from model_servers.base.metrics import Metrics
from model_servers.base.openapi import REFUSALS, describe_bodies
from model_servers.base.predictor import Predictor
from model_servers.base.problems import ClientLeft, Problem, Refused, problem_of, reply_of
from model_servers.base.recording import Recording
from model_servers.base.replies import JSONReply
from model_servers.base.settings import ServerSettings
from model_servers.base.state import ServerState

_log = logging.getLogger("model_servers")
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Application:
    """Predictors behind routes.

    Args:
        predictors: what is served; made, but not loaded.
        settings: of the server.
        keys: who may ask.

    Attributes:
        asgi: what a web server calls.
        state: where the server is in its life.
        access: who may ask, for other ways in.
        dataplane: KServe's, with the models that are loaded.
    """

    def __init__(self, predictors: Sequence[Predictor], settings: ServerSettings, keys: Keys) -> None:
        self._predictors = list(predictors)
        self._settings = settings
        self._pool = ThreadPoolExecutor(1, "model-server-life")
        self.metrics = Metrics()
        self.state = ServerState(settings, self.metrics, self._is_alive)
        self.access = Access(keys, settings)
        self.dataplane = DataPlane(ModelRepository())
        self.fastapi = self._routes()
        lanes = {path: lane for each in self._predictors for path, lane in each.lanes.items()}
        guarded: ASGIApp = Guarding(self.fastapi, self.access, self.state, settings, lanes)
        self.asgi: ASGIApp = Recording(guarded, self.metrics)

    async def load(self) -> None:
        """Load the predictors, one after another, while health is answered.

        Raises:
            MistudioError: one cannot be loaded.
        """
        for predictor in self._predictors:
            began = time.perf_counter()
            models = await asyncio.get_running_loop().run_in_executor(self._pool, predictor.load)
            seconds = time.perf_counter() - began
            for model in models:
                model.ready = True
                self.dataplane.model_registry.update(model)
            self.metrics.loaded(predictor.name, seconds)
            names = [model.name for model in models]
            _log.info("loaded", extra=with_fields(predictor=predictor.name, models=names, seconds=round(seconds, 2)))
        self.state.is_loaded = True

    async def drain(self, timeout_s: float) -> None:
        """Answer no further requests, end streams, and wait until what else is there is answered, up to a time."""
        self.state.drain()
        _log.info("draining")
        draining = [
            asyncio.get_running_loop().run_in_executor(None, each.drain, timeout_s) for each in self._predictors
        ]
        try:
            async with asyncio.timeout(timeout_s):
                await self.state.idle()
                await asyncio.gather(*draining)
        except TimeoutError:
            _log.warning("requests are left at the end of the time to finish them")

    def close(self) -> None:
        """End what still runs, and let go of everything; what is loading is waited for. Again: nothing."""
        self._pool.shutdown()
        for predictor in self._predictors:
            predictor.close()

    def _is_alive(self) -> bool:
        return all(predictor.is_alive for predictor in self._predictors)

    def _routes(self) -> FastAPI:
        app = FastAPI(title="miStudio", version=__version__, docs_url=None, redoc_url=None, responses=REFUSALS)
        for kind in (Refused, ClientLeft, MistudioError, HTTPException, RequestValidationError, Exception):
            app.add_exception_handler(kind, _refusal)
        health = Health(self.dataplane, self.state)
        instances = [each.instance for each in self._predictors]
        routers = [health.router(), Inferring(self.dataplane, health, instances).router(), self._own_router()]
        bodies: list[type[BaseModel]] = [InferenceRequest, *instances]
        for predictor in self._predictors:
            predictor.register_metrics(self.metrics)
            routers += predictor.routers()
            bodies += predictor.bodies
        for router in routers:
            app.include_router(router)
        describe_bodies(app, bodies)
        return app

    def _own_router(self) -> APIRouter:
        router = APIRouter(tags=["server"])
        router.get("/metrics")(self._metrics)
        router.get("/describe")(self._describe)
        return router

    async def _metrics(self) -> Response:
        """What is counted, for Prometheus."""
        return Response(self.metrics.text(), media_type=_METRICS_TYPE)

    async def _describe(self) -> Response:
        """What is served, as the predictors say it; and limits of the server."""
        settings = self._settings
        limits = {
            "max_body_bytes": settings.max_body_bytes,
            "max_requests": settings.max_requests,
            "max_streams": settings.max_streams,
            "max_queue": settings.max_queue,
            "request_timeout_s": settings.request_timeout_s,
            "requests_per_minute": settings.requests_per_minute,
        }
        described: dict[str, Any] = {"version": __version__, "predictors": [each.name for each in self._predictors]}
        for predictor in self._predictors:
            described |= await asyncio.to_thread(predictor.describe)
        return JSONReply({**described, "server": limits})


async def _refusal(request: Request, error: Exception) -> Response:
    if request.scope["type"] == "websocket":
        raise error  # the outermost layer knows whether it is open, and so how to say it
    if isinstance(error, RequestValidationError):
        problem = Problem(400, "The path or the query is none that is served.", "invalid_value")
    else:
        problem = problem_of(error)
    return reply_of(problem, request.url.path)
