"""What is told of a change: in a ranked list, and in alerts.

Shape legend: I changes.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift.rates import RateTests
from mistudio.monitor.drift.shares import interval
from mistudio.monitor.records import Alert, Origin
from mistudio.monitor.rules.rules import DRIFT
from mistudio.plain_text import shortened

RULE = DRIFT  # name of the test in alerts
MOST_LISTED = 32  # changes that an alert has the figures of
_MOST_SAID = 4  # of them, in its message
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """What changed in a feature or a column, in one stream.

    Attributes:
        group: the stream, such as ``model/endpoint``, and after ``against`` what it was compared with.
        watched: the feature as ``uri#number``, or the column as ``name>cut``.
        label: what was said of the feature.
        direction: more or less often than before.
        log10_e: how much the texts speak for a change, as a power of ten of the e-value.
        log10_needed: what an alert takes.
        before: share of texts before the change, as counted.
        now: share of texts since.
        now_low: lower end of its interval, which holds at every moment and wherever it begins.
        now_high: upper end.
        since_text: text of the stream from which on ``now`` is counted.
        num_texts: texts since.
        num_fired: those of them in which it fired.
        reference: share of the texts of the profile; None: the stream is compared with another.
        is_told: whether an alert was raised that nobody has acknowledged.
    """

    group: str
    watched: str
    label: str | None
    direction: Literal["up", "down"]
    log10_e: float
    log10_needed: float
    before: float
    now: float
    now_low: float
    now_high: float
    since_text: int
    num_texts: int
    num_fired: int
    reference: float | None
    is_told: bool


@dataclass(frozen=True)
class Telling:
    """What changes of one family are told with."""

    group: str
    name: Callable[[int], str]
    label: Callable[[int], str | None]
    reference: Callable[[int], float | None]
    log_needed: float
    confidence: float


def changes(tests: RateTests, which_I: Ints, telling: Telling) -> Iterator[Change]:
    """What is known of some things, as of now."""
    found = tests.segments(which_I)
    log_e_I = tests.log_evidence(which_I)
    low_I, high_I = interval(found.yes_I, found.num_I, _log_starts(tests.num_texts) - math.log(1 - telling.confidence))
    for place, number in enumerate(which_I.tolist()):
        before = _ratio(found.yes_before_I[place], found.num_before_I[place])
        now = _ratio(found.yes_I[place], found.num_I[place])
        yield Change(
            group=telling.group,
            watched=telling.name(number),
            label=telling.label(number),
            direction="up" if now >= before else "down",
            log10_e=max(float(log_e_I[place]), -1e3) / math.log(10),
            log10_needed=telling.log_needed / math.log(10),
            before=before,
            now=now,
            now_low=float(low_I[place]),
            now_high=float(high_I[place]),
            since_text=int(found.start_I[place]),
            num_texts=int(found.num_I[place]),
            num_fired=int(found.yes_I[place]),
            reference=telling.reference(number),
            is_told=bool(tests.told_H[number]),
        )


def alert_of(
    found: Sequence[Change], origin: Origin, exchange: str, time: float, texts_per_false_alarm: float
) -> Alert:
    """An alert that tells of the changes of one moment, the surest first; the same traffic gives the same one.

    Its figures are those of the surest; ``changes`` has as many of all as are listed, ``num_changes`` says how many
    there are.
    """
    ranked = sorted(found, key=lambda change: change.log10_needed - change.log10_e)
    first, listed = ranked[0], ranked[:MOST_LISTED]
    values = _figures(first)
    values["texts_per_false_alarm"] = texts_per_false_alarm
    values["num_changes"] = len(ranked)
    values["changes"] = [{"watched": each.watched, **_figures(each)} for each in listed]
    naming = "\n".join([first.group, *(each.watched for each in listed), str(first.since_text), exchange])
    return Alert(
        id=f"drift-{hashlib.sha256(naming.encode()).hexdigest()[:20]}",
        time=time,
        rule=RULE,
        kind="drift",
        severity="warning",
        message=_message(ranked, texts_per_false_alarm),
        origin=origin,
        exchange=exchange,
        watched=tuple(each.watched for each in listed),
        values=values,
    )


def _figures(change: Change) -> dict[str, Any]:
    return {
        name: getattr(change, name)
        for name in (
            *("group", "direction", "log10_e", "log10_needed", "before", "now", "now_low", "now_high"),
            *("since_text", "num_texts", "num_fired", "reference", "label"),
        )
    }


def _message(ranked: Sequence[Change], texts_per_false_alarm: float) -> str:
    change, others = ranked[0], ranked[1:]
    more = "more" if change.direction == "up" else "less"
    return (
        f"{_named(change)} fires {more} often in {change.group}: in {change.num_fired:,} of the last "
        f"{change.num_texts:,} texts ({change.now:.3%}; between {change.now_low:.3%} and {change.now_high:.3%}), "
        f"before in {change.before:.4%}. {_also(others)}Evidence 10^{change.log10_e:.1f}, needed "
        f"10^{change.log10_needed:.1f}: over all that is watched, one false alarm in {texts_per_false_alarm:,.0f} "
        "texts is to be expected at most."
    )


def _also(others: Sequence[Change]) -> str:
    """What else changed at that moment."""
    if not others:
        return ""
    told = ", ".join(f"{_named(each)} {each.before:.2%} to {each.now:.2%}" for each in others[:_MOST_SAID])
    more = f", and {len(others) - _MOST_SAID:,} more" if len(others) > _MOST_SAID else ""
    return f"Changed with it ({len(others):,}): {told}{more}. "


def _named(change: Change) -> str:
    return change.watched + (f" ({shortened(change.label)})" if change.label else "")


def _log_starts(num_texts: int) -> float:
    """Log of what an interval pays for holding wherever its texts begin: 2 n (1 + log n)^2, whose inverses sum to 1."""
    return math.log(2 * (num_texts + 1)) + 2 * math.log(1 + math.log(num_texts + 1))


def _ratio(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else 0.0
