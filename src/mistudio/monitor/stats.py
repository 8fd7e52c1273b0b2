"""What the monitor counts: numbers by names that are few and known beforehand."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Counts = Mapping[str, float]


@dataclass(frozen=True)
class MonitorStats:
    """What the monitor is at, and what it has counted since it began.

    Attributes:
        events: that came to the sink, by what became of them.
        exchanges: that were joined of them, by how.
        samples: that were read.
        tokens: of these.
        batches: in which they were read.
        reading_s: seconds that reading took.
        unread: parts of bodies, and texts, that could not be read as they are, by reason.
        set_aside: exchanges that could not be read, and were left.
        failures: of the steps behind reading, by step.
        alerts: that were raised, by rule.
        stopped: answers of this process that a rule ended.
        actions: that were tried, by what became of them.
        forwarded: events that were passed on, by what became of them.
        queue_events: that wait to be read.
        queue_bytes: of these.
        pending: requests without an answer yet, and answers without a request.
        lag_s: from when the exchange that was read last arrived to when it was read.
        drift_log_e: largest e-value over what drift is watched for, as a power of ten; None: drift is not looked for.
        history_rows: observations that are kept.
        history_bytes: of the history's file.
        subscribers: clients that follow the live stream.
        subscriber_dropped: events that had no room on their way to one.
    """

    events: Counts = field(default_factory=dict)
    exchanges: Counts = field(default_factory=dict)
    samples: int = 0
    tokens: int = 0
    batches: int = 0
    reading_s: float = 0.0
    unread: Counts = field(default_factory=dict)
    set_aside: int = 0
    failures: Counts = field(default_factory=dict)
    alerts: Counts = field(default_factory=dict)
    stopped: int = 0
    actions: Counts = field(default_factory=dict)
    forwarded: Counts = field(default_factory=dict)
    queue_events: int = 0
    queue_bytes: int = 0
    pending: int = 0
    lag_s: float = 0.0
    drift_log_e: float | None = None
    history_rows: int = 0
    history_bytes: int = 0
    subscribers: int = 0
    subscriber_dropped: int = 0


class Tally:
    """Counters of one worker, which others may read meanwhile without waiting for it.

    Attributes:
        numbers: samples, tokens, batches and the like.
        failures: of steps, by step.
        alerts: by rule.
        reading_s: seconds that reading took.
        lag_s: from an exchange's arrival to when it was read.
        drift_log_e: largest e-value, as a power of ten; None: drift is not looked for.
        kept: rows and bytes of the history.
    """

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.alerts: Counter[str] = Counter()
        self.reading_s = 0.0
        self.lag_s = 0.0
        self.drift_log_e: float | None = None
        self.kept: Mapping[str, int] = {}
