"""The predictor ``steer``."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from kserve import Model

from mistudio.instrument.listening import Listener
from mistudio.steer.callers import Caller
from mistudio.steer.config import ServiceConfig
from model_servers.base.keys import NOBODY
from model_servers.base.metrics import Metrics
from model_servers.base.predictor import Predictor
from model_servers.base.problems import unavailable
from model_servers.base.recording import HEADER, KEY_NAME, request_id_from
from model_servers.base.shared import Shared
from model_servers.steer.describing import describe, names_in_store
from model_servers.steer.kserve_model import TextModel
from model_servers.steer.metrics import SteerMetrics, Watch
from model_servers.steer.openai.routes import OpenAI
from model_servers.steer.parsing import Instance
from model_servers.steer.running import Mailbox, Run

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.instrument.served import Served
    from mistudio.steer.audit import AuditLog
    from mistudio.steer.service import SteerService
    from mistudio.steer.service_parts import ServiceStats

_NUM_THREADS = 2  # check and tokenise; more would take turns with the engine's


class SteerPredictor(Predictor):
    """Serves one subject.

    Args:
        shared: the model and its autoencoders.
        config: how much is generated at once.
        chat_template: to be used in place of the tokenizer's own.
        audit: log of all that changes the model; None: none is kept.
        listener: who else follows what is written, such as a monitor; None: nobody.
    """

    name = "steer"
    instance = Instance
    bodies = OpenAI.bodies

    def __init__(
        self,
        shared: "Shared[Served]",
        config: ServiceConfig | None = None,
        chat_template: str | None = None,
        audit: "AuditLog | None" = None,
        listener: Listener | None = None,
    ) -> None:
        self._listener = listener
        self._shared, self._config, self._chat_template, self._audit = shared, config, chat_template, audit
        self._served: Served | None = None
        self._service: SteerService | None = None
        self._description: dict[str, Any] = {}
        self._is_closed = False
        self._pool = ThreadPoolExecutor(_NUM_THREADS, "steer-requests")
        self._metrics: SteerMetrics | None = None
        self._mailbox: Mailbox | None = None

    def load(self) -> list[Model]:
        """Load the model, and start the engine.

        Raises:
            MistudioError: it cannot be loaded.
        """
        from mistudio.steer.opening import nameable, named_edits
        from mistudio.steer.service import SteerService

        self._served = self._shared.take()
        served = self._served
        service = SteerService(
            nameable(served),
            served.name,
            self._config,
            self._chat_template,
            partial(named_edits, served),
            self._audit,
            self._listener,
        )
        self._description = describe(served, service, is_logged=self._audit is not None).model_dump(mode="json")
        service.start()
        self._service = service
        return [TextModel(self)]

    def routers(self) -> list[APIRouter]:
        """OpenAI's routes."""
        return [OpenAI(self).router()]

    def register_metrics(self, metrics: Metrics) -> None:
        """Put the engine's numbers beside the server's."""
        self._metrics = SteerMetrics(metrics.registry, self._stats)

    def describe(self) -> dict[str, Any]:
        """Subject, autoencoders, hook points, edits, limits.

        Raises:
            Refused: it is not loaded yet.
        """
        self._loaded()
        assert self._served is not None  # noqa: S101 - the service was made of it
        return self._description | names_in_store(self._served)

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs, where it was started."""
        return self._service is None or self._is_closed or self._service.is_running

    def drain(self, timeout_s: float) -> None:
        """Let the engine finish what it is at."""
        if self._service is not None:
            self._service.drain(timeout_s)

    def close(self) -> None:
        """End the engine, and let go of the model."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._service is not None:
            self._service.close()
        self._pool.shutdown()
        if self._served is not None:
            self._shared.give_back()

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
        if self._mailbox is None:
            self._mailbox = Mailbox(asyncio.get_running_loop())
        key = headers.get(KEY_NAME, NOBODY)
        caller = Caller(request_id_from(headers.get(HEADER, "")), None if key == NOBODY else key)
        return Run(self._loaded(), self._pool, self._mailbox, Watch(self._metrics, api), caller)

    def _stats(self) -> "ServiceStats | None":
        return None if self._service is None else self._service.stats()

    def _loaded(self) -> "SteerService":
        if self._service is None:
            message = "The model is being loaded: try again in a moment."
            raise unavailable(message, 5, "loading")
        return self._service
