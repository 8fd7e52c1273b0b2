"""Health and names of models, as KServe's protocols V1 and V2 have them; true only when everything is loaded."""

from typing import Any

from fastapi import APIRouter
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_datamodels import (
    ListModelsResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

from mistudio.plain_text import shortened
from model_servers.base.problems import unavailable, wrong
from model_servers.base.state import ServerState


class Health:
    """Answers of one server.

    Args:
        dataplane: KServe's, with the models that are loaded.
        state: of the server.
    """

    def __init__(self, dataplane: DataPlane, state: ServerState) -> None:
        self._dataplane = dataplane
        self._state = state

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["health"])
        get = router.get
        get("/", summary="Whether the server lives.")(self.alive)
        get("/v2/health/live", response_model=ServerLiveResponse)(self.live)
        get("/v2/health/ready", response_model=ServerReadyResponse)(self.ready)
        get("/v2", response_model=ServerMetadataResponse)(self.metadata)
        get("/v2/models", response_model=ListModelsResponse)(self.models)
        get("/v2/models/{model_name}", response_model=ModelMetadataResponse)(self.model_metadata)
        get("/v2/models/{model_name}/ready", response_model=ModelReadyResponse)(self.model_ready)
        get("/v1/models", response_model=ListModelsResponse)(self.models)
        get("/v1/models/{model_name}", response_model=ModelReadyResponse)(self.model_ready)
        return router

    async def alive(self) -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "alive"}

    async def live(self) -> dict[str, bool]:
        """Whether the server lives; where not, only another process helps."""
        if not self._state.is_alive:
            message = "A predictor has ended by an error: the log says more, and the server has to be started anew."
            raise unavailable(message, 60, "failed")
        return {"live": True}

    async def ready(self) -> dict[str, bool]:
        """Whether the server answers requests."""
        self.check_ready()
        return {"ready": True}

    async def metadata(self) -> dict[str, Any]:
        """Name and version of the server; models come and go with it, so that it has no extension that loads them."""
        return {**self._dataplane.metadata(), "extensions": []}

    async def models(self) -> dict[str, list[str]]:
        """Names of the models."""
        return {"models": list(self._dataplane.model_registry.get_models())}

    async def model_metadata(self, model_name: str) -> Any:
        """Inputs and outputs of a model."""
        self.check_model(model_name)
        return await self._dataplane.model_metadata(model_name)

    async def model_ready(self, model_name: str) -> dict[str, Any]:
        """Whether a model answers requests."""
        self.check_ready()
        self.check_model(model_name)
        return {"name": model_name, "ready": True}

    def check_ready(self) -> None:
        """Refuse what comes too early or too late.

        Raises:
            Refused: the server loads, or is about to end.
        """
        if not self._state.is_alive:
            message = "A predictor has ended by an error: ask another server."
            raise unavailable(message, 60, "failed")
        if not self._state.is_ready:
            doing = "is about to end" if self._state.is_draining else "is loading"
            message = f"The server {doing}: try again in a moment."
            raise unavailable(message, 5, "draining" if self._state.is_draining else "loading")

    def check_model(self, name: str) -> None:
        """Refuse a model that is not served.

        Raises:
            Refused: there is none of that name, or not yet.
        """
        if not self._state.is_loaded:
            self.check_ready()
        known = self._dataplane.model_registry.get_models()
        if name not in known:
            message = f"There is no model {shortened(name)}: this server has {', '.join(known)}."
            raise wrong(message, "model", "model_not_found", 404)
