"""What is counted of the monitor, for Prometheus. Labels are outcomes, steps, and rules, of which a file holds few."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from mistudio.monitor.stats import MonitorStats

_PREFIX = "mistudio_monitor"
_LABELLED = {  # the field of the stats: the label, and what is counted
    "events": ("outcome", "Events that came to the sink, by what became of them."),
    "exchanges": ("outcome", "Exchanges that were made of events, by how they were joined."),
    "unread": ("reason", "Parts of bodies that could not be read, by reason."),
    "failures": ("step", "Failures of steps behind reading; the worker goes on."),
    "alerts": ("rule", "Alerts by rule, and by test of drift."),
    "actions": ("outcome", "Actions of alerts, such as webhooks, by what became of them."),
    "forwarded": ("outcome", "Events passed on to the forward URL, by what became of them."),
}
_COUNTED = {
    "samples": "Texts that were read.",
    "tokens": "Tokens that were read.",
    "batches": "Batches in which texts were read.",
    "set_aside": "Exchanges that could not be read, and were left.",
    "stopped": "Answers of this process that a rule ended.",
    "subscriber_dropped": "Events of the live stream that had no room on their way to a client.",
}
_SHOWN = {
    "queue_events": "Events that wait to be read.",
    "queue_bytes": "Bytes of the events that wait to be read.",
    "pending": "Requests that wait for their answer, and answers for their request.",
    "history_rows": "Observations in the history.",
    "history_bytes": "Bytes of the history's file.",
    "subscribers": "Clients that follow the live stream.",
}


class MonitorMetrics(Collector):
    """The monitor's numbers, asked for when metrics are read.

    Args:
        registry: of the server.
        stats: what the monitor is at; None before it is loaded.
    """

    def __init__(self, registry: prometheus.CollectorRegistry, stats: Callable[[], "MonitorStats | None"]) -> None:
        self._stats = stats
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """All families; without numbers before the monitor is loaded."""
        stats = self._stats()
        for name, (label, about) in _LABELLED.items():
            yield _labelled(name, about, label, {} if stats is None else getattr(stats, name))
        for name, about in _COUNTED.items():
            yield _one(CounterMetricFamily, name, about, None if stats is None else getattr(stats, name))
        for name, about in _SHOWN.items():
            yield _one(GaugeMetricFamily, name, about, None if stats is None else getattr(stats, name))
        reading_s, lag_s, drift = (None,) * 3 if stats is None else (stats.reading_s, stats.lag_s, stats.drift_log_e)
        yield _one(CounterMetricFamily, "reading_seconds", "Seconds that reading took.", reading_s)
        yield _one(GaugeMetricFamily, "lag_seconds", "From an exchange's arrival to when it was read.", lag_s)
        about = "Largest e-value over what drift is watched for, as a natural logarithm."
        yield _one(GaugeMetricFamily, "drift_max_log_e_value", about, None if drift is None else drift * math.log(10))


def _labelled(name: str, about: str, label: str, counts: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", about, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _one(kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, about: str, value: float | None) -> Metric:
    family = kind(f"{_PREFIX}_{name}", about)
    if value is not None:
        family.add_metric([], value)
    return family
