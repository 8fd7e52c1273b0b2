"""What is counted of generation, for Prometheus."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mistudio.steer.requests import Delta, Done, Event, Finished

_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_DURATIONS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PREFIX = "mistudio_steer"


class SteerMetrics:
    """Counters of one predictor.

    Args:
        registry: of the server.
        stats: numbers of what the engine is at, as attributes; None before it is loaded.
    """

    def __init__(self, registry: prometheus.CollectorRegistry, stats: Callable[[], Any]) -> None:
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
        self.tokens = prometheus.Counter(
            f"{_PREFIX}_tokens_processed_total", "Tokens of prompts and of answers.", ("kind",), registry=registry
        )
        self.answers = prometheus.Counter(
            f"{_PREFIX}_answers_total", "Answers by what ended them.", ("finish_reason",), registry=registry
        )
        self.left = prometheus.Counter(
            f"{_PREFIX}_cancelled_total", "Requests that ended before their answer did.", ("api",), registry=registry
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
        elif isinstance(event, Done):
            self._metrics.tokens.labels("prompt").inc(event.usage.prompt_tokens)
            self._metrics.tokens.labels("completion").inc(event.usage.completion_tokens)

    def done(self) -> None:
        """All events came."""
        self._metrics.durations.labels(self._api).observe(self._seconds())

    def left(self) -> None:
        """It ended before."""
        self._metrics.left.labels(self._api).inc()

    def _seconds(self) -> float:
        return time.perf_counter() - self._began


class _Stats(Collector):
    """Numbers of the engine's, asked for when metrics are read."""

    def __init__(self, stats: Callable[[], Any]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """A gauge a number."""
        stats = self._stats()
        for name, value in ({} if stats is None else vars(stats)).items():
            if isinstance(value, int | float) and not name.startswith("_"):
                yield GaugeMetricFamily(f"{_PREFIX}_{name}", f"Of the engine: {name.replace('_', ' ')}.", value=value)
