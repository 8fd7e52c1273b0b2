"""What a follower of the live stream missed, out of the history: samples and alerts since the event that it knows.

The history has the largest value of each column, not those of all tokens; alerts have an id of their own, and may come
twice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mistudio.monitor.history.history import History, Seen
from mistudio.monitor.live import Follower, Named, Wanted
from mistudio.monitor.live_events import LiveEvent, alert_event

MOST_MISSED = 1000


def missed(history: History, columns: Sequence[Named], wanted: Wanted, last: int) -> list[dict[str, Any]]:
    """What is told of it, the oldest first; where it is more than is told, a count of what is left out comes first.

    Args:
        history: has it.
        columns: the watched ones.
        wanted: what the follower wants.
        last: number of the last sample that it knows.
    """
    newest = [one for one in history.samples(limit=MOST_MISSED) if one.number > last]
    newest.reverse()
    follower = Follower(wanted, columns, len(newest) + MOST_MISSED, lambda: None)
    for one in newest:
        follower.put(_sample(one, columns))
    if newest:
        alerts = history.alerts(since=newest[0].time, limit=MOST_MISSED)
        for alert in reversed(alerts):
            follower.put(alert_event(alert, None))
    told = [{**event, "replayed": True} for event in follower.take()]
    gone = newest[0].number - last - 1 if newest else 0
    return [{"kind": "dropped", "count": gone}, *told] if gone > 0 else told


def _sample(one: Seen, columns: Sequence[Named]) -> LiveEvent:
    max_W = np.array([one.watched.get(column.name, np.nan) for column in columns], dtype=np.float32)
    place_W = np.array([one.places.get(column.name, -1) for column in columns], dtype=np.int64)
    body = {"sample": one.sample, "time": one.time, "tokens": one.num_tokens}
    return LiveEvent("sample", one.origin, one.exchange, str(one.number), body, max_W, place_W)
