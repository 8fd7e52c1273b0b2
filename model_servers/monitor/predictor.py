"""The predictor ``monitor``: a watch on the traffic of any model, and on what is generated in the same process."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request
from kserve import Model

from mistudio.instrument.listening import Relay
from mistudio.monitor.config import MonitorConfig
from mistudio.monitor.direct_requests import Asked
from mistudio.monitor.traffic.events import EventsRead
from mistudio.monitor.traffic.forwarding import Forwarder, ForwardSettings
from mistudio.monitor.traffic.inlet import Inlet
from mistudio.settings import validated
from model_servers.base.lanes import Lane
from model_servers.base.metrics import Metrics
from model_servers.base.predictor import Predictor
from model_servers.base.problems import unavailable
from model_servers.base.shared import Shared
from model_servers.monitor import sink, streaming
from model_servers.monitor.kserve_model import WatchModel
from model_servers.monitor.metrics import MonitorMetrics
from model_servers.monitor.routes import BODIES, Routes
from model_servers.monitor.working import Places

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.instrument.served import Served
    from mistudio.monitor.service import MonitorService
    from mistudio.monitor.stats import MonitorStats

Made = TypeVar("Made")
_READS, _READS_WAITING = 2, 256
_SINK_WAITING = 1024


class MonitorPredictor(Predictor):
    """Watches traffic with one subject and its autoencoders.

    Args:
        shared: the model and its autoencoders.
        config: what is watched, and how much is kept.
        relay: where what steers in the same process asks for who follows; None: nothing does.
        chat_template: to be used in place of the tokenizer's own.

    Attributes:
        inlet: where traffic comes in, from before the model is loaded.

    Raises:
        ConfigError: the forward URL is none.
    """

    name = "monitor"
    instance = Asked
    bodies = BODIES
    lanes = {sink.PATH: Lane.SINK, **streaming.LANES}

    def __init__(
        self,
        shared: "Shared[Served]",
        config: MonitorConfig | None = None,
        relay: Relay | None = None,
        chat_template: str | None = None,
    ) -> None:
        self._chat_template = chat_template
        self._shared, self._config, self._relay = shared, config or MonitorConfig(), relay
        self.inlet = Inlet(self._config.traffic)
        self._served: Served | None = None
        self._monitor: MonitorService | None = None
        self._is_closed = False
        self._places = {
            "run": Places("monitor-passes", 1, self._config.direct_waiting),
            "read": Places("monitor-reads", _READS, _READS_WAITING),
            "take": Places("monitor-sink", 1, _SINK_WAITING),
        }
        url = self._config.forward_url
        self._forwarder = None if url is None else Forwarder(validated(ForwardSettings, {"url": url}))
        self._forwarding: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self) -> list[Model]:
        """Load the model, or take the one that is loaded; and begin to read.

        Raises:
            MistudioError: it cannot be loaded, or the settings do not fit it.
        """
        from mistudio.monitor.service import MonitorService

        self._served = self._shared.take()
        monitor = MonitorService(
            self._served,
            self._config,
            chat_template=self._chat_template,
            follows_generated=self._relay is not None,
            inlet=self.inlet,
        )
        monitor.start()
        self._monitor = monitor
        if self._relay is not None:
            self._relay.listener = monitor.following
        return [WatchModel(self)]

    def routers(self) -> list[APIRouter]:
        """The sink, what can be asked, and the live stream."""
        return [sink.Sink(self, self._forward).router(), Routes(self).router(), streaming.Streams(self).router()]

    def register_metrics(self, metrics: Metrics) -> None:
        """Put the monitor's numbers beside the server's."""
        MonitorMetrics(metrics.registry, self.stats)

    def describe(self) -> dict[str, Any]:
        """What is watched, and how.

        Raises:
            Refused: it is not loaded yet.
        """
        return {self.name: self.monitor().description()}

    @property
    def is_alive(self) -> bool:
        """Whether traffic is read, or will be."""
        return self._monitor is None or self._is_closed or self._monitor.is_alive

    def drain(self, timeout_s: float) -> None:
        """Read what is there, and pass on what waits for that."""
        if self._monitor is not None:
            self._monitor.drain(timeout_s)
        if self._forwarder is not None and self._forwarding is not None and self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._forwarder.close(timeout_s), self._loop).result()

    def close(self) -> None:
        """End, and let go of the model and the folder."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._relay is not None:
            self._relay.listener = None
        for each in self._places.values():
            each.close()
        if self._monitor is not None:
            self._monitor.close()
        if self._forwarding is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._forwarding.cancel)
        if self._served is not None:
            self._shared.give_back()

    def monitor(self) -> "MonitorService":
        """The monitor.

        Raises:
            Refused: it is not loaded yet.
        """
        if self._monitor is None:
            message = "The model is being loaded: try again in a moment."
            raise unavailable(message, 5, "loading")
        return self._monitor

    def stats(self) -> "MonitorStats | None":
        """What the monitor is at, with what was passed on: before it is loaded, what came; None behind its end."""
        if self._is_closed:
            return None
        stats = self.inlet.stats() if self._monitor is None else self._monitor.stats()
        return stats if self._forwarder is None else replace(stats, forwarded=self._forwarder.counts())

    async def read(self, work: "Callable[[MonitorService], Made]") -> Made:
        """What ``work`` makes of the monitor, on a thread for what is looked up."""
        return await self._placed("read", work)

    async def run(self, work: "Callable[[MonitorService], Made]") -> Made:
        """The same, on a thread for what goes through the model."""
        return await self._placed("run", work)

    async def take(self, headers: Mapping[str, str], body: bytes) -> EventsRead:
        """Take events, on a thread that nothing else uses than the sink."""
        return await self._places["take"].run(lambda: self.inlet.take(headers, body))

    async def _placed(self, name: str, work: "Callable[[MonitorService], Made]") -> Made:
        monitor = self.monitor()
        return await self._places[name].run(lambda: work(monitor))

    def _forward(self, request: Request, body: bytes) -> None:
        if self._forwarder is None:
            return
        if self._forwarding is None:
            self._loop = asyncio.get_running_loop()
            self._forwarding = self._loop.create_task(self._forwarder.run())
        self._forwarder.offer(request.headers.items(), body)
