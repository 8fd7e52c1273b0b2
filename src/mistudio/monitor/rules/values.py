"""What a rule looks at in an observation: which columns, pooled how, over whose tokens, against which thresholds."""

import hashlib
import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.errors import ConfigError
from mistudio.monitor.records import Observation
from mistudio.monitor.rules.rules import Rule
from mistudio.monitor.watch.watch_list import Part, Pool, WatchList


class Met(NamedTuple):
    """The columns of a rule in an observation, in the order of the rule; only those that could be judged."""

    which: NDArray[np.int64]  # of the rule's columns
    value: NDArray[np.float64]
    above: NDArray[np.float64]
    place: NDArray[np.int64]

    @property
    def is_above(self) -> NDArray[np.bool_]:
        """Which are above their thresholds."""
        found: NDArray[np.bool_] = self.value > self.above
        return found


class _Together(NamedTuple):
    """Columns that are pooled alike."""

    part: Part
    pool: Pool
    which: NDArray[np.int64]
    column: NDArray[np.int64]
    above: NDArray[np.float64]


class RuleValues:
    """Reads the columns of a rule.

    Args:
        rule: names them.
        watch_list: has them, with thresholds.

    Raises:
        ConfigError: a column is not watched, has no threshold, or is not pooled so.
    """

    def __init__(self, rule: Rule, watch_list: WatchList) -> None:
        together: dict[tuple[Part, Pool], list[tuple[int, int, float]]] = {}
        content: list[object] = []
        for which, name in enumerate(rule.columns):
            one = watch_list.named(name)
            if one is None:
                message = f"Rule {rule.name} looks at {name}, which is not watched; the list has {_some(watch_list)}."
                raise ConfigError(message)
            above = one.threshold if rule.above is None else rule.above
            if above is None:
                message = (
                    f"Rule {rule.name} looks at {name}, which has no threshold: give the rule above, or the watch list "
                    "a threshold or a calibration."
                )
                raise ConfigError(message)
            part, pool = rule.part or one.part, rule.pool or one.pool
            if pool == "top" and one.pool != "top":
                message = (
                    f"Rule {rule.name} looks at the largest values of {name}, of which only the largest is read: watch "
                    "it with pool: top."
                )
                raise ConfigError(message)
            together.setdefault((part, pool), []).append((which, watch_list.number(name), above))
            content.append([one.model_dump(mode="json"), above])
        self._together = [
            _Together(part, pool, *(np.array(each) for each in zip(*some, strict=True)))
            for (part, pool), some in together.items()
        ]
        whole = [rule.model_dump(mode="json"), content]
        self.digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    def met(self, observation: Observation) -> Met | None:
        """What the columns are there; None where none of them can be judged, as of a reply that there is not."""
        found = []
        for each in self._together:
            pooled = observation.over(each.part)
            if pooled is None or not pooled.num_tokens:
                continue
            value = (pooled.max_W if each.pool == "max" else pooled.top_W)[each.column].astype(np.float64)
            found.append(Met(each.which, value, each.above, pooled.place_W[each.column]))
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        order = np.argsort(np.concatenate([each.which for each in found]))
        return Met(
            np.concatenate([each.which for each in found])[order],
            np.concatenate([each.value for each in found])[order],
            np.concatenate([each.above for each in found])[order],
            np.concatenate([each.place for each in found])[order],
        )


def _some(watch_list: WatchList) -> str:
    names = watch_list.names
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")
