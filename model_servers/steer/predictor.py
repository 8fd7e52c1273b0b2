"""The predictor ``steer``."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter
from kserve import Model

from model_servers.base.metrics import Metrics
from model_servers.base.predictor import Predictor
from model_servers.base.problems import unavailable
from model_servers.steer.kserve_model import TextModel
from model_servers.steer.metrics import SteerMetrics, Watch
from model_servers.steer.openai.routes import OpenAI
from model_servers.steer.running import Run
from model_servers.steer.service_protocol import TextService

_NUM_THREADS = 2  # check and tokenise; more would take turns with the engine's


class SteerPredictor(Predictor):
    """Serves one subject.

    Args:
        open_service: loads the service, and starts its engine.
    """

    name = "steer"
    bodies = OpenAI.bodies

    def __init__(self, open_service: Callable[[], TextService]) -> None:
        self._open = open_service
        self._service: TextService | None = None
        self._is_closed = False
        self._pool = ThreadPoolExecutor(_NUM_THREADS, "steer-requests")
        self._metrics: SteerMetrics | None = None

    def load(self) -> list[Model]:
        """Load the service.

        Raises:
            MistudioError: it cannot be loaded.
        """
        self._service = self._open()
        return [TextModel(self)]

    def routers(self) -> list[APIRouter]:
        """OpenAI's routes."""
        return [OpenAI(self).router()]

    def register_metrics(self, metrics: Metrics) -> None:
        """Put the engine's numbers beside the server's."""
        self._metrics = SteerMetrics(metrics.registry, lambda: self._service and self._service.stats())

    def describe(self) -> dict[str, Any]:
        """Subject, autoencoders, hook points, edits, limits.

        Raises:
            Refused: it is not loaded yet.
        """
        return self._loaded().describe().model_dump(mode="json")

    def drain(self, timeout_s: float) -> None:
        """Let the engine finish what it is at."""
        if self._service is not None:
            self._service.drain(timeout_s)

    def close(self) -> None:
        """End the engine."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._service is not None:
            self._service.close()
        self._pool.shutdown()

    def model_name(self) -> str:
        """Name of the model.

        Raises:
            Refused: it is not loaded yet.
        """
        return self._loaded().name

    def new_run(self, api: str, headers: Mapping[str, str]) -> Run:
        """A run of the engine's.

        Raises:
            Refused: the model is not loaded yet.
        """
        assert self._metrics is not None  # noqa: S101 - the server registers them before it listens
        return Run(self._loaded(), self._pool, Watch(self._metrics, api))

    def _loaded(self) -> TextService:
        if self._service is None:
            message = "The model is being loaded: try again in a moment."
            raise unavailable(message, 5, "loading")
        return self._service
