"""What followers of the live stream are told, and how JSON has it.

Shape legend: W watched columns, T tokens.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.records import Alert, Observation, Origin

if TYPE_CHECKING:  # torch comes with it
    from mistudio.monitor.watch.watching import TokenValues

_DIGITS = 6
Kind = Literal["sample", "token", "end", "alert", "drift", "note"]


@dataclass(frozen=True, eq=False)
class LiveEvent:
    """Something that followers are told.

    Attributes:
        kind: ``sample`` (a text that was read), ``token`` (one of an answer that is being written), ``end`` (of such an
            answer), ``alert``, ``drift``, ``note`` (of what somebody did).
        origin: of the traffic.
        request: id of the exchange or of the generation.
        id: from which a follower can go on later; None: nothing is kept of it.
        body: what is told whoever asks.
        max_W: largest value of each column; None where there are no values.
        place_W: token at which it is.
        top_W: mean of the largest values.
        value_TW: values by token, where they were read.
    """

    kind: Kind
    origin: Origin
    request: str
    id: str | None
    body: Mapping[str, Any]
    max_W: NDArray[np.float32] | None = None
    place_W: NDArray[np.int64] | None = None
    top_W: NDArray[np.float32] | None = None
    value_TW: NDArray[np.float32] | None = None


def sample_event(one: Observation, event_id: str | None, tokens: "TokenValues | None" = None) -> LiveEvent:
    """The event of a text that was read.

    Args:
        one: what was seen in it.
        event_id: of the event.
        tokens: its values by token, where they were read.
    """
    body: dict[str, Any] = {
        "sample": one.sample,
        "time": one.time,
        "tokens": one.num_tokens,
        "reply_from": one.reply_from,
    }
    value_TW = None if tokens is None else tokens.value_TW
    arrays = (one.max_W, one.place_W, one.top_W, value_TW)
    return LiveEvent("sample", one.origin, one.exchange, event_id, body, *arrays)


def alert_event(alert: Alert, event_id: str | None) -> LiveEvent:
    """The event of an alert."""
    kind: Kind = "drift" if alert.kind == "drift" else "note" if alert.kind == "note" else "alert"
    return LiveEvent(kind, alert.origin, alert.exchange, event_id, {"alert": alert_body(alert)})


def token_event(
    origin: Origin, request: str, index: int, place: int, text: str, value_W: NDArray[np.float32]
) -> LiveEvent:
    """The event of a token that was written."""
    body = {"answer": index, "token": place, "text": text}
    return LiveEvent("token", origin, request, None, body, max_W=value_W)


def alert_body(alert: Alert) -> dict[str, Any]:
    """An alert as JSON has it."""
    return {
        "id": alert.id,
        "time": alert.time,
        "rule": alert.rule,
        "kind": alert.kind,
        "severity": alert.severity,
        "message": alert.message,
        "origin": origin_body(alert.origin),
        "exchange": alert.exchange,
        "watched": list(alert.watched),
        "values": jsonable(dict(alert.values)),
        "is_end": alert.is_end,
    }


def origin_body(origin: Origin) -> dict[str, str]:
    """An origin as JSON has it: what is known of it."""
    names = ("model", "endpoint", "namespace", "tenant")
    return {name: value for name in names if (value := getattr(origin, name))}


def jsonable(value: Any) -> Any:
    """A value with plain numbers, and null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short(value: float) -> float | None:
    """A value with as many digits as anybody looks at; null where it is no number."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
