"""Observations and alerts as rows of the history, and back.

Shape legend: W watched columns, A features that fired in a sample.
"""

import json
import math
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio.guarded_json import parse_json
from mistudio.monitor.history.config import HistoryConfig
from mistudio.monitor.records import Alert, Observation, Origin
from mistudio.redaction import redact

Redaction = Callable[[str], str]
ORIGIN = ("model", "endpoint", "namespace", "tenant")
SAMPLE_COLUMNS = (
    *("exchange", "sample", "time", *ORIGIN, "num_tokens", "columns", "max", "place", "fired", "text"),
)  # fmt: skip
ALERT_COLUMNS = (
    *("id", "time", "rule", "kind", "severity", "message", *ORIGIN, "exchange", "watched", '"values"', "is_end"),
)  # fmt: skip
_FIRED = np.dtype([("autoencoder", "<i4"), ("feature", "<i8"), ("count", "<i4"), ("max", "<f4")])
_HIDDEN = "***"
_MOST_MESSAGE = 4096


@dataclass(frozen=True)
class Seen:
    """A sample as it was kept.

    Attributes:
        number: of the sample in the history, ascending.
        exchange: id of its request.
        sample: which of its samples.
        time: of the exchange, in seconds since 1970.
        origin: of the exchange.
        num_tokens: that were read.
        watched: value of each column by name; what could not be read is left out.
        places: token of each value, by name.
        fired: the strongest features by URI: number, tokens, largest value.
        text: redacted; None: it was not kept.
    """

    number: int
    exchange: str
    sample: int
    time: float
    origin: Origin
    num_tokens: int
    watched: Mapping[str, float]
    places: Mapping[str, int]
    fired: Mapping[str, Sequence[tuple[int, int, float]]]
    text: str | None


class Keeping:
    """How texts are kept: cut, and without what is to be taken out.

    Args:
        config: whether, how much, and which patterns.
        redact: is called last.
    """

    def __init__(self, config: HistoryConfig, redact_more: Redaction | None = None) -> None:
        self._config, self._redact_more = config, redact_more
        self._patterns = [re.compile(pattern) for pattern in config.redact_patterns]

    def text(self, observation: Observation) -> str | None:
        """What is kept of a sample's text; None: nothing is to be, or it was not given."""
        if not self._config.keep_text or observation.strings is None:
            return None
        text = redact("".join(observation.strings))
        for pattern in self._patterns:
            text = pattern.sub(_HIDDEN, text)
        if self._redact_more is not None:
            text = self._redact_more(text)
        return text[: self._config.text_characters].encode(errors="replace").decode()


def sample_row(
    observation: Observation, columns: int, autoencoders: Mapping[str, int], top: int, text: str | None
) -> tuple[Any, ...]:
    """A sample as a row."""
    fired = [
        _strongest(autoencoders[uri], each.feature_A, each.count_A, each.max_A, top)
        for uri, each in observation.fired.items()
    ]
    return (
        observation.exchange,
        observation.sample,
        observation.time,
        *(getattr(observation.origin, name) for name in ORIGIN),
        observation.num_tokens,
        columns,
        observation.max_W.astype("<f4").tobytes(),
        observation.place_W.astype("<i4").tobytes(),
        b"".join(each.tobytes() for each in fired),
        text,
    )


def fired_in(row: bytes) -> list[tuple[int, int]]:
    """Autoencoder and feature of what is kept of a sample."""
    found = np.frombuffer(row, dtype=_FIRED)
    return list(zip(found["autoencoder"].tolist(), found["feature"].tolist(), strict=True))


def seen_of(row: sqlite3.Row, names: Sequence[str], uris: Mapping[int, str]) -> Seen:
    """A row as a sample."""
    values, places = np.frombuffer(row["max"], "<f4").tolist(), np.frombuffer(row["place"], "<i4").tolist()
    known = [number for number, value in enumerate(values) if not math.isnan(value)]
    fired: dict[str, list[tuple[int, int, float]]] = {}
    for autoencoder, feature, count, largest in np.frombuffer(row["fired"], dtype=_FIRED).tolist():
        fired.setdefault(uris.get(autoencoder, ""), []).append((feature, count, largest))
    return Seen(
        number=row["number"],
        exchange=row["exchange"],
        sample=row["sample"],
        time=row["time"],
        origin=Origin(*(row[name] for name in ORIGIN)),
        num_tokens=row["num_tokens"],
        watched={names[number]: values[number] for number in known},
        places={names[number]: places[number] for number in known},
        fired=fired,
        text=row["text"],
    )


def alert_row(alert: Alert) -> tuple[Any, ...]:
    """An alert as a row."""
    return (
        *(alert.id, alert.time, alert.rule, alert.kind, alert.severity, alert.message[:_MOST_MESSAGE]),
        *(getattr(alert.origin, name) for name in ORIGIN),
        alert.exchange,
        json.dumps(alert.watched),
        json.dumps(_plain(alert.values), default=str),
        int(alert.is_end),
    )


def alert_of(row: sqlite3.Row) -> Alert:
    """A row as an alert."""
    plain = {name: row[name] for name in ("id", "time", "rule", "kind", "severity", "message", "exchange")}
    return Alert(
        **plain,
        origin=Origin(*(row[name] for name in ORIGIN)),
        watched=tuple(parse_json(row["watched"])),
        values=parse_json(row["values"]),
        is_end=bool(row["is_end"]),
    )


def _strongest(autoencoder: int, feature_A: Any, count_A: Any, max_A: Any, top: int) -> Any:
    best = np.argsort(-max_A, kind="stable")[:top]
    rows = np.empty(len(best), dtype=_FIRED)
    rows["autoencoder"] = autoencoder
    rows["feature"], rows["count"], rows["max"] = feature_A[best], count_A[best], max_A[best]
    return rows


def _plain(value: Any) -> Any:
    """A value as JSON has it: NumPy's numbers as numbers, and none where one is not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
