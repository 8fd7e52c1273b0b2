"""The predictor ``correlate``."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from kserve import Model

from mistudio.correlate.queries import QUERIES, ExamplesQuery, Query
from mistudio.errors import InputError, SubjectError
from model_servers.base.keys import NOBODY
from model_servers.base.metrics import Metrics
from model_servers.base.predictor import Predictor
from model_servers.base.problems import unavailable, wrong
from model_servers.base.recording import KEY_NAME
from model_servers.base.shared import Shared
from model_servers.correlate.config import ServingConfig
from model_servers.correlate.describing import describe
from model_servers.correlate.kserve_model import LookUpModel
from model_servers.correlate.metrics import CorrelateMetrics
from model_servers.correlate.parsing import LookUpInstance
from model_servers.correlate.routes import look_up_routes
from model_servers.correlate.served import LookUp
from model_servers.correlate.working import Left, Workers

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.correlate.correlator import Correlator
    from mistudio.instrument.served import Served

_RUN_THE_MODEL = frozenset({"text", "examples", "concept"})


class CorrelatePredictor(Predictor):
    """Serves look-ups on one subject and its autoencoders.

    Args:
        shared: the model and its autoencoders.
        config: how much is looked up at once; None: the defaults.
        chat_template: to be used in place of the tokenizer's own.
    """

    name = "correlate"
    instance = LookUpInstance
    bodies = tuple(QUERIES.values())

    def __init__(
        self, shared: "Shared[Served]", config: ServingConfig | None = None, chat_template: str | None = None
    ) -> None:
        self._shared, self._config, self._chat_template = shared, config or ServingConfig(), chat_template
        self._served: Served | None = None
        self._correlator: Correlator | None = None
        self._metrics: CorrelateMetrics | None = None
        self._is_closed = False
        self._opened = ExitStack()
        self._workers = {
            "passes": Workers("correlate-passes", self._config.passes, self._config.queue),
            "reads": Workers("correlate-reads", self._config.reads, self._config.queue),
        }

    def load(self) -> list[Model]:
        """Load the model, or take the one that is loaded; and make what concepts are searched in, where it is missing.

        Raises:
            MistudioError: it cannot be loaded or made, or nothing embeds as the settings say.
        """
        from mistudio.correlate.concepts.embedding import open_embedder
        from mistudio.correlate.correlator import Correlator

        self._served = self._shared.take()
        embedder = self._opened.enter_context(open_embedder(self._config.embed_with or "", self._served))
        correlator = Correlator(self._served, self._config.limits, self._chat_template, embedder)
        correlator.prepare()
        self._correlator = correlator
        return [LookUpModel(self)]

    def routers(self) -> list[APIRouter]:
        """A route for each look-up."""
        return [look_up_routes(self)]

    def register_metrics(self, metrics: Metrics) -> None:
        """Put the numbers of look-ups beside the server's."""
        self._metrics = CorrelateMetrics(metrics.registry, lambda: self._workers)

    def describe(self) -> dict[str, Any]:
        """What is looked up, and in what.

        Raises:
            Refused: it is not loaded yet.
        """
        self._loaded()
        assert self._served is not None  # noqa: S101 - the look-ups were made of it
        return {self.name: describe(self._served, self._config).model_dump(mode="json")}

    def drain(self, timeout_s: float) -> None:
        """Nothing is left to do: the server waits for the requests that there are."""

    def close(self) -> None:
        """Wait for look-ups that cannot be stopped, and let go of the model."""
        if self._is_closed:
            return
        self._is_closed = True
        for each in self._workers.values():
            each.close()
        self._opened.close()
        if self._served is not None:
            self._shared.give_back()

    async def answers(self, look_ups: Sequence[LookUp], headers: Mapping[str, str]) -> list[bytes]:
        """Replies to look-ups as JSON, one after another; on one thread, in one place.

        Raises:
            Refused: the model is not loaded yet, or one asks for what may not be done.
            InputError: one asks for what cannot be done.
            Busy: too many wait already.
        """
        correlator, key = self._loaded(), headers.get(KEY_NAME, NOBODY)
        kind = "passes" if any(self._runs_the_model(each.name) for each in look_ups) else "reads"
        return await self._workers[kind].run(
            lambda left: [self._answer(correlator, each, key, left) for each in look_ups]
        )

    def _runs_the_model(self, name: str) -> bool:
        """Features too where explanations are embedded: the model does it, or waits as long."""
        return name in _RUN_THE_MODEL or (name == "feature" and self._config.embed_with is not None)

    def _answer(self, correlator: "Correlator", look_up: LookUp, key: str, left: Left) -> bytes:
        assert self._metrics is not None  # noqa: S101 - the server registers them before it listens
        with self._metrics.look_up(look_up.name):
            left.check()
            query = self._allowed(look_up.read(), key)
            try:
                return correlator.ask(query).model_dump_json().encode()
            except InputError as error:
                # A model that has not what this query needs is the client's fault too: it is loaded.
                kind = InputError if isinstance(error, SubjectError) else type(error)
                raise kind(f"{look_up.above}: {error}" if look_up.above else str(error)) from error

    def _allowed(self, query: Query, key: str) -> Query:
        """The query as it is done: what is kept says by which key."""
        if not isinstance(query, ExamplesQuery) or query.save_as is None:
            return query
        if not self._config.allow_saving:
            message = "save_as: this server keeps nothing; start it with --correlate-allow-saving, or leave it out."
            raise wrong(message, "save_as", "read_only", 403)
        if key == NOBODY:
            return query
        return query.model_copy(update={"author": f"{query.author} (key {key})" if query.author else f"key {key}"})

    def _loaded(self) -> "Correlator":
        if self._correlator is None:
            message = "The model is being loaded: try again in a moment."
            raise unavailable(message, 5, "loading")
        return self._correlator
