"""What is counted of look-ups, for Prometheus."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mistudio.errors import InputError
from model_servers.base.problems import ClientLeft, Refused
from model_servers.correlate.working import Workers

_DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_PREFIX = "mistudio_correlate"


class CorrelateMetrics:
    """Counters of one predictor.

    Args:
        registry: of the server.
        workers: by what they do; none before the predictor is loaded.
    """

    def __init__(self, registry: prometheus.CollectorRegistry, workers: Callable[[], Mapping[str, Workers]]) -> None:
        self._durations = prometheus.Histogram(
            f"{_PREFIX}_processing_duration_seconds",
            "Seconds that a look-up took, without waiting for its turn.",
            ("look_up",),
            registry=registry,
            buckets=_DURATIONS_S,
        )
        self._look_ups = prometheus.Counter(
            f"{_PREFIX}_look_ups_total",
            "Look-ups by what they ended with: answered, refused, left or failed.",
            ("look_up", "outcome"),
            registry=registry,
        )
        registry.register(_Places(workers))

    @contextmanager
    def look_up(self, name: str) -> Iterator[None]:
        """Count one look-up, whatever it ends with."""
        began = time.perf_counter()
        outcome = "failed"
        try:
            yield
            outcome = "answered"
        except (InputError, Refused):
            outcome = "refused"
            raise
        except ClientLeft:
            outcome = "left"
            raise
        finally:
            self._look_ups.labels(name, outcome).inc()
            self._durations.labels(name).observe(time.perf_counter() - began)


class _Places(Collector):
    """Look-ups that run and wait, asked for when metrics are read."""

    def __init__(self, workers: Callable[[], Mapping[str, Workers]]) -> None:
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        """Two gauges, with a label for what the workers do."""
        running = GaugeMetricFamily(f"{_PREFIX}_running", "Look-ups that are under way.", labels=["kind"])
        waiting = GaugeMetricFamily(f"{_PREFIX}_waiting", "Look-ups that wait for their turn.", labels=["kind"])
        for kind, each in self._workers().items():
            running.add_metric([kind], each.num_running)
            waiting.add_metric([kind], each.num_waiting)
        return [running, waiting]
