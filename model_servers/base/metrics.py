"""What is counted, for Prometheus. Labels have few values: routes, not paths; methods and statuses that there are."""

import sys
from collections.abc import Iterable, Iterator

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

NO_ROUTE = "none"  # of paths that nothing is served at
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "WEBSOCKET"})
_DURATIONS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server, in a registry of its own: several servers may share a process.

    Attributes:
        registry: where predictors put metrics of theirs.
    """

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "mistudio_requests_total",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._durations = prometheus.Histogram(
            "mistudio_processing_duration_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route",),
            registry=self.registry,
            buckets=_DURATIONS_S,
        )
        self.in_flight = prometheus.Gauge(
            "mistudio_requests_active", "Requests that are read or answered.", registry=self.registry
        )
        self.streams = prometheus.Gauge(
            "mistudio_streams_active", "Streams (server-sent events, WebSockets) that are open.", registry=self.registry
        )
        self._loading = prometheus.Gauge(
            "mistudio_model_loading_duration_seconds",
            "Seconds that loading a predictor took.",
            ("predictor",),
            registry=self.registry,
        )
        self.registry.register(_MemoryOfGPUs())

    def count(self, route: str | None, method: str, status: int, seconds: float | None) -> None:
        """A request that was answered, or left; of a stream without seconds, which say nothing of the server."""
        name = route or NO_ROUTE
        self._requests.labels(name, method if method in _METHODS else "other", str(status)).inc()
        if seconds is not None:
            self._durations.labels(name).observe(seconds)

    def loaded(self, predictor: str, seconds: float) -> None:
        """A predictor that was loaded."""
        self._loading.labels(predictor).set(seconds)

    def text(self) -> bytes:
        """What Prometheus reads: this server's metrics, then the process's, with those that KServe counts."""
        parts = (self.registry, prometheus.REGISTRY)
        return b"".join(map(prometheus.generate_latest, parts))


class _MemoryOfGPUs(Collector):
    """Asked for when metrics are read; nothing where no GPU is in use."""

    def collect(self) -> Iterable[Metric]:
        """The share of each GPU's memory that is taken."""
        family = GaugeMetricFamily(
            "mistudio_gpu_memory_utilization_percent", "Memory that is taken, of a GPU's.", labels=["device"]
        )
        for device, percent in _taken():
            family.add_metric([device], percent)
        return [family]


def _taken() -> Iterator[tuple[str, float]]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield str(number), 100 * (1 - free / total)
