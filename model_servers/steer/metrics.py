"""What is counted of generation, for Prometheus."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mistudio.steer.requests import Delta, Event, Finished

if TYPE_CHECKING:
    from mistudio.steer.service_parts import ServiceStats

_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PREFIX = "mistudio_steer"
_GAUGES = ("rows", "rows_in_use", "waiting")


class SteerMetrics:
    """Counters of one predictor.

    Args:
        registry: of the server.
        stats: what the engine is at; None before it is loaded.
    """

    def __init__(self, registry: prometheus.CollectorRegistry, stats: Callable[[], "ServiceStats | None"]) -> None:
        self.durations = prometheus.Histogram(
            f"{_PREFIX}_processing_duration_seconds",
            "Seconds from submitting a client's request to its last token.",
            ("api",),
            registry=registry,
            buckets=_DURATIONS_S,
        )
        self.first_tokens = prometheus.Histogram(
            f"{_PREFIX}_first_token_seconds",
            "Seconds from submitting a client's request to its first token.",
            ("api",),
            registry=registry,
            buckets=_FIRST_TOKEN_S,
        )
        self.answers = prometheus.Counter(
            f"{_PREFIX}_answers_total", "Answers by what ended them.", ("finish_reason",), registry=registry
        )
        self.left = prometheus.Counter(
            f"{_PREFIX}_left_total",
            "Requests that ended before their answers did.",
            ("api",),
            registry=registry,
        )
        registry.register(_Stats(stats))


class Watch:
    """What one run adds to the counters."""

    def __init__(self, metrics: SteerMetrics, api: str) -> None:
        self._metrics = metrics
        self._api = api
        self._began = time.perf_counter()
        self._has_tokens = False

    def see(self, event: Event) -> None:
        """An event that came."""
        if isinstance(event, Delta) and not self._has_tokens:
            self._has_tokens = True
            self._metrics.first_tokens.labels(self._api).observe(self._seconds())
        elif isinstance(event, Finished):
            self._metrics.answers.labels(event.reason).inc()

    def done(self) -> None:
        """All events came."""
        self._metrics.durations.labels(self._api).observe(self._seconds())

    def left(self) -> None:
        """It ended before."""
        self._metrics.left.labels(self._api).inc()

    def _seconds(self) -> float:
        return time.perf_counter() - self._began


class _Stats(Collector):
    """Numbers of the engine's, asked for when metrics are read: what is in use, and what was counted since it began."""

    def __init__(self, stats: Callable[[], "ServiceStats | None"]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """A metric a number."""
        stats = self._stats()
        for name, value in {} if stats is None else asdict(stats).items():
            about = f"Of the engine: {name.replace('_', ' ')}."
            family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
            yield family(f"{_PREFIX}_{name}", about, value=value)
