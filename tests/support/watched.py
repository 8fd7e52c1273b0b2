"""Observations made by hand, for tests of what is done with them."""

from collections.abc import Mapping

import numpy as np

from mistudio.monitor.records import Observation, Origin, Pooled
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.watch.watch_list import WatchList

NAMES = ("a", "b", "c", "top")


def watch_list(thresholds: Mapping[str, float] | None = None) -> WatchList:
    """Four columns, the last pooled by its largest values; those with a threshold are above 1, unless it is given."""
    given = dict.fromkeys(NAMES, 1.0) if thresholds is None else dict(thresholds)
    watched = [
        {"name": name, "feature": n, "threshold": given.get(name), "pool": "top" if name == "top" else "max"}
        for n, name in enumerate(NAMES)
    ]
    return WatchList.model_validate({"watched": watched})


def rules(*some: Mapping[str, object], **more: object) -> Rules:
    """Rules, named by their places where they have no name."""
    named = [{"name": f"r{number}", **one} for number, one in enumerate(some)]
    return Rules.model_validate({"rules": named, **more})


def observation(
    number: int,
    *values: float,
    time: float | None = None,
    sample: int = 0,
    reply: tuple[float, ...] | None = None,
    top: tuple[float, ...] | None = None,
    **origin: str,
) -> Observation:
    """The exchange of a number, at as many seconds, with values of the first columns."""

    def filled(some: tuple[float, ...]) -> np.ndarray:
        return np.array([*some, *[0.0] * (len(NAMES) - len(some))], dtype=np.float32)

    max_W = filled(values)
    place_W = np.where(max_W > 0, 7, -1)
    in_reply = None if reply is None else Pooled(2, filled(reply), place_W, filled(reply))
    return Observation(
        exchange=f"x{number}",
        sample=sample,
        time=float(number) if time is None else time,
        origin=Origin(**origin),
        num_tokens=9,
        reply_from=None if reply is None else 7,
        max_W=max_W,
        place_W=place_W,
        top_W=filled(values if top is None else top),
        prompt=None if reply is None else Pooled(7, max_W, place_W, max_W),
        reply=in_reply,
    )
