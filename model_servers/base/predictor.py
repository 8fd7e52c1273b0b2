"""What a predictor is to the server that runs it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from kserve import Model
from pydantic import BaseModel

from model_servers.base.lanes import Lane
from model_servers.base.metrics import Metrics


class Predictor(ABC):
    """One online step.

    It is made before it is loaded, so that its routes are there, and answers from when it is loaded until it is closed.

    Attributes:
        name: what ``--models`` calls it.
        instance: what an instance of V1 is, and bodies: what routes of its own read; for the OpenAPI document.
        lanes: paths of its own that are streams or sinks; all others are requests.
    """

    name: str
    instance: type[BaseModel]
    bodies: tuple[type[BaseModel], ...] = ()
    lanes: Mapping[str, Lane] = {}

    @abstractmethod
    def load(self) -> list[Model]:
        """Load everything, on a thread of the server's, and start; then KServe's models of it are served.

        Raises:
            MistudioError: it cannot be loaded.
        """

    @abstractmethod
    def routers(self) -> list[APIRouter]:
        """Routes of its own, beside those of KServe's protocols."""

    @abstractmethod
    def register_metrics(self, metrics: Metrics) -> None:
        """Put metrics of its own beside the server's."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is served: its fields of GET /describe; called on a thread of the server's.

        Raises:
            Refused: it is not loaded yet.
        """

    @property
    def is_alive(self) -> bool:
        """Whether it can answer, or will once it is loaded; where not, only another process helps."""
        return True

    @abstractmethod
    def drain(self, timeout_s: float) -> None:
        """Take no further work, and finish what is there, up to a time; called on a thread of the server's."""

    @abstractmethod
    def close(self) -> None:
        """End what still runs, and let go of everything; called again, do nothing."""
