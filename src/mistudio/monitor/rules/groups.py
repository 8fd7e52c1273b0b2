"""The states of a rule: one for each of the values that it tells apart, and one that all others share.

There are never more than the rule allows. One that has not been met for long makes room for a new one; while none has,
what is new goes to the shared state, so that nothing goes unwatched, and is counted.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.monitor.records import Origin
from mistudio.monitor.rules.rules import RateRule, Rule
from mistudio.monitor.rules.windows import Window, window_of

Key = tuple[str, ...]
_IDLE_S = 86_400.0
_MOST_CHARACTERS = 200  # of a value that is told apart


@dataclass(eq=False)
class Group:
    """A state.

    Attributes:
        key: the values that it is of; None: it is the one that others share.
        time: of its newest exchange.
        exchange: id of the last; None: there was none yet.
        is_hit: whether the rule was met in that exchange.
        is_on: whether the rule holds, for one that begins and ends.
        is_told: whether that was told.
        is_waiting: whether it is kept back by the cool-down of an earlier alert.
        below: exchanges in a row at or below the value that ends it.
        told: when an alert was last told; None: never.
        kept_back: alerts that the cool-down kept back since.
        window: exchanges that are counted; None: the rule has no window.
    """

    key: Key | None
    time: float = 0.0
    exchange: str | None = None
    is_hit: bool = False
    is_on: bool = False
    is_told: bool = False
    is_waiting: bool = False
    below: int = 0
    told: float | None = None
    kept_back: int = 0
    window: Window | None = None

    def state(self) -> dict[str, Any]:
        """What has to be kept, for JSON."""
        kept = {name: value for name, value in vars(self).items() if name not in ("window", "key")}
        window = None if self.window is None else self.window.state()
        return {"key": None if self.key is None else list(self.key), **kept, "window": window}


class Groups:
    """The states of one rule.

    Args:
        rule: whose.

    Attributes:
        overflow: exchanges that went to the shared state for want of room.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule, self.overflow = rule, 0
        self._groups: OrderedDict[Key, Group] = OrderedDict()
        self._shared = self._new(None)
        self._idle_s = max(_IDLE_S, rule.cool_down_s, getattr(rule, "last_s", None) or 0.0)

    def __len__(self) -> int:
        """How many there are, but for the shared one."""
        return len(self._groups)

    @property
    def on(self) -> list[Key | None]:
        """Values for which the rule holds now."""
        return [group.key for group in (*self._groups.values(), self._shared) if group.is_on]

    def of(self, origin: Origin, time: float) -> Group:
        """The state for traffic from there."""
        key = tuple(getattr(origin, name)[:_MOST_CHARACTERS] for name in self._rule.each)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self._rule.max_groups and not self._made_room(time):
                self.overflow += 1
                return self._shared
            group = self._groups[key] = self._new(key)
        self._groups.move_to_end(key)
        return group

    def state(self) -> dict[str, Any]:
        """What has to be kept, for JSON; groups from the one that was met longest ago."""
        groups = [group.state() for group in (*self._groups.values(), self._shared)]
        return {"overflow": self.overflow, "groups": groups}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what was kept."""
        self.overflow = int(state["overflow"])
        for each in state["groups"]:
            group = self._restored(each)
            if group.key is None:
                self._shared = group
            else:
                self._groups[group.key] = group

    def _made_room(self, time: float) -> bool:
        """Whether the state that was met longest ago could be let go of."""
        key, group = next(iter(self._groups.items()))
        if group.is_on or group.time > time - self._idle_s:
            return False
        del self._groups[key]
        return True

    def _new(self, key: Key | None) -> Group:
        return Group(key, window=window_of(self._rule) if isinstance(self._rule, RateRule) else None)

    def _restored(self, state: Mapping[str, Any]) -> Group:
        key = None if state["key"] is None else tuple(map(str, state["key"]))
        group = Group(
            key,
            float(state["time"]),
            None if state["exchange"] is None else str(state["exchange"]),
            bool(state["is_hit"]),
            bool(state["is_on"]),
            bool(state["is_told"]),
            bool(state["is_waiting"]),
            int(state["below"]),
            None if state["told"] is None else float(state["told"]),
            int(state["kept_back"]),
        )
        if isinstance(self._rule, RateRule):
            group.window = window_of(self._rule, state["window"])
        return group
