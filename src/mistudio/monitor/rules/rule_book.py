"""Rules at work: what was seen goes in, alerts come out; the same traffic gives the same alerts.

There is no clock here. Time is that of the traffic, so that rules can be tried on what was recorded, and so that a
service that was cut off and goes on tells what it would have told.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.errors import InputError
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.monitor.records import Alert, Observation, Origin
from mistudio.monitor.rules.groups import Group, Groups
from mistudio.monitor.rules.rules import ORIGIN_FIELDS, RateRule, Rule, Rules, SetRule, ThresholdRule
from mistudio.monitor.rules.values import Met, RuleValues
from mistudio.monitor.watch.watch_list import WatchList

_VERSION = 2  # 2: with the identities of columns

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Kept:
    """A rule with its states, and how it has fared."""

    rule: Rule
    values: RuleValues
    groups: Groups
    seen: int = 0  # exchanges that it was for
    hits: int = 0  # exchanges that it was met in
    alerts: int = 0
    kept_back: int = 0  # alerts that a cool-down kept back


class RuleBook:
    """Rules with their states.

    Args:
        rules: checked as a whole.
        watch_list: what they name, with its thresholds filled in.
        about: what to say of columns beside their names, such as labels, by name.
        identities: of the columns, by name: what was counted of one is not gone on with for another.

    Raises:
        ConfigError: a rule names a column that is not watched, or one without a threshold.
    """

    def __init__(
        self,
        rules: Rules,
        watch_list: WatchList,
        about: Mapping[str, str] | None = None,
        identities: Mapping[str, str] | None = None,
    ) -> None:
        self.rules, self.watch_list, self._about = rules, watch_list, dict(about or {})
        self._identities = dict(identities or {})
        self._kept = [_Kept(rule, RuleValues(rule, watch_list), Groups(rule)) for rule in rules.rules]

    def update(self, observation: Observation) -> list[Alert]:
        """What is to be told of a sample; those of one exchange come one after the other."""
        found = []
        for kept in self._kept:
            if not kept.rule.where.has(observation.origin):
                continue
            met = kept.values.met(observation)
            if met is not None:
                found += self._updated(kept, observation, met)
        return found

    def replaced(self, rules: Rules, watch_list: WatchList | None = None) -> "RuleBook":
        """A book of other rules; those that stay the same keep their state.

        Raises:
            ConfigError: as for a new one; this one stays as it is.
        """
        book = RuleBook(rules, watch_list or self.watch_list, self._about, self._identities)
        before = {kept.rule.name: kept for kept in self._kept}
        book._kept = [
            before[kept.rule.name] if _is_same(kept, before.get(kept.rule.name)) else kept for kept in book._kept
        ]
        return book

    def state(self) -> bytes:
        """All that has to be kept to go on later, as JSON."""
        rules = {
            kept.rule.name: {
                "digest": kept.values.digest,
                "columns": self._identities_of(kept),
                "seen": kept.seen,
                "hits": kept.hits,
                "alerts": kept.alerts,
                "kept_back": kept.kept_back,
                **kept.groups.state(),
            }
            for kept in self._kept
        }
        return json.dumps({"version": _VERSION, "rules": rules}, separators=(",", ":")).encode()

    @classmethod
    def restored(
        cls,
        rules: Rules,
        watch_list: WatchList,
        state: bytes,
        about: Mapping[str, str] | None = None,
        identities: Mapping[str, str] | None = None,
    ) -> "RuleBook":
        """A book that goes on where another one was; rules that have changed since, or their columns, begin anew.

        Raises:
            ConfigError: as for a new one.
            InputError: the state is none.
        """
        book = cls(rules, watch_list, about, identities)
        try:
            content = parse_json(state)
            if content["version"] != _VERSION:
                message = f"The state of rules is of version {content['version']}, not {_VERSION}: begin a new one."
                raise InputError(message)
            for kept in book._kept:
                before = content["rules"].get(kept.rule.name)
                if before is not None and book._goes_on(kept, before):
                    kept.groups.restore(before)
                    for name in ("seen", "hits", "alerts", "kept_back"):
                        setattr(kept, name, int(before[name]))
        except (RefusedJSON, KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"The state of rules cannot be read ({type(error).__name__}: {error}): begin a new one."
            raise InputError(message) from error
        return book

    def status(self) -> list[dict[str, Any]]:
        """Of each rule what it says, and what it has met, for people."""
        return [
            {
                **kept.rule.model_dump(mode="json", exclude_defaults=True),
                "kind": kept.rule.kind,
                "exchanges": kept.seen,
                "hits": kept.hits,
                "alerts": kept.alerts,
                "kept_back": kept.kept_back,
                "groups": len(kept.groups),
                "overflow": kept.groups.overflow,
                "on": [list(key) if key is not None else ["(others)"] for key in kept.groups.on[:100]],
            }
            for kept in self._kept
        ]

    def _identities_of(self, kept: _Kept) -> dict[str, str]:
        return {name: self._identities.get(name, "") for name in kept.rule.columns}

    def _goes_on(self, kept: _Kept, before: Mapping[str, Any]) -> bool:
        """Whether a rule is the one that was saved, and looks at the same columns."""
        others = [name for name, own in self._identities_of(kept).items() if before["columns"].get(name, own) != own]
        if others:
            logger.warning(
                "Rule %s begins anew: %s now reads something else than before.", kept.rule.name, ", ".join(others)
            )
        return not others and bool(before["digest"] == kept.values.digest)

    def _updated(self, kept: _Kept, observation: Observation, met: Met) -> list[Alert]:
        rule = kept.rule
        group = kept.groups.of(observation.origin, observation.time)
        is_new = group.exchange != observation.exchange
        least = rule.least if isinstance(rule, SetRule) else 1
        is_above = met.is_above
        is_hit = int(is_above.sum()) >= least
        was_hit = group.is_hit and not is_new
        kept.seen += is_new
        kept.hits += is_hit and not was_hit
        group.exchange, group.is_hit = observation.exchange, is_hit or was_hit
        group.time = max(group.time, observation.time)
        if isinstance(rule, RateRule):
            return self._by_rate(kept, rule, group, observation, (is_new, is_hit and not was_hit))
        if isinstance(rule, ThresholdRule) and rule.off is not None:
            return self._with_end(kept, rule, group, observation, met, is_new=is_new)
        if not is_hit or was_hit:
            return []
        if not _may_tell(rule, group, observation.time):
            _keep_back(kept, group)
            return []
        return [self._alert(kept, group, observation, *self._of_values(rule, met))]

    def _by_rate(
        self, kept: _Kept, rule: RateRule, group: Group, observation: Observation, is_new_and_hit: tuple[bool, bool]
    ) -> list[Alert]:
        is_new, now_hit = is_new_and_hit
        window = group.window
        assert window is not None  # noqa: S101 - rules of rates have one
        if is_new:
            window.add(observation.time, is_hit=now_hit)
        elif now_hit:
            window.now_hit()
        exchanges, hits = window.counts()
        share = hits / exchanges if exchanges else 0.0
        values = {"share": share, "over": rule.share, "exchanges": exchanges, "hits": hits}
        says = f"{self._called(rule.watched)} was above its threshold in {hits:,} of the last {exchanges:,} exchanges"
        if exchanges >= rule.min_exchanges and share > rule.share:
            group.is_on = True
        elif group.is_on and share <= (rule.share if rule.off_share is None else rule.off_share):
            return self._ended(kept, group, observation, f"{says} ({share:.2%}): that is over.", values)
        return self._begun(
            kept, group, observation, (f"{says} ({share:.2%}, over {rule.share:.2%}).", (rule.watched,), values)
        )

    def _with_end(
        self, kept: _Kept, rule: ThresholdRule, group: Group, observation: Observation, met: Met, *, is_new: bool
    ) -> list[Alert]:
        value, off = float(met.value[0]), float(rule.off or 0)
        if value > off:
            group.below = 0
        elif is_new:
            group.below += 1
        if bool(met.is_above[0]):
            group.is_on = True
        elif group.is_on and group.below >= rule.off_after:
            says = f"{self._called(rule.watched)} is at {value:.4g}, no more than {off:g}: that is over."
            return self._ended(kept, group, observation, says, {"value": value, "off": off})
        return self._begun(kept, group, observation, self._of_values(rule, met))

    def _begun(
        self, kept: _Kept, group: Group, observation: Observation, told: tuple[str, tuple[str, ...], dict[str, Any]]
    ) -> list[Alert]:
        """The alert of what holds and was not told yet; one that a cool-down kept back comes when that is over."""
        if not group.is_on or group.is_told:
            return []
        if not _may_tell(kept.rule, group, observation.time):
            if not group.is_waiting:
                _keep_back(kept, group)
            group.is_waiting = True
            return []
        group.is_told, group.is_waiting = True, False
        return [self._alert(kept, group, observation, *told)]

    def _ended(
        self, kept: _Kept, group: Group, observation: Observation, message: str, values: dict[str, Any]
    ) -> list[Alert]:
        was_told = group.is_told
        group.is_on = group.is_told = group.is_waiting = False
        if not was_told:
            return []
        return [self._alert(kept, group, observation, message, kept.rule.columns, values, is_end=True)]

    def _of_values(self, rule: Rule, met: Met) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """What to tell of the values of an exchange."""
        above = met.is_above
        names = [rule.columns[number] for number in met.which]
        if isinstance(rule, SetRule):
            on = [name for name, is_on in zip(names, above, strict=True) if is_on]
            values = {name: float(value) for name, value, is_on in zip(names, met.value, above, strict=True) if is_on}
            shown = ", ".join(map(self._called, on[:8])) + (f" and {len(on) - 8} more" if len(on) > 8 else "")
            message = f"{len(on)} of {len(rule.columns)} are above their thresholds: {shown}."
            return message, tuple(on), {"values": values, "at_least": rule.least}
        value, over = float(met.value[0]), float(met.above[0])
        message = f"{self._called(names[0])} is at {value:.4g}, over {over:g}."
        return message, (names[0],), {"value": value, "over": over, "place": int(met.place[0])}

    def _called(self, name: str) -> str:
        about = self._about.get(name)
        return f"{name} ({about})" if about else name

    def _alert(
        self,
        kept: _Kept,
        group: Group,
        observation: Observation,
        message: str,
        watched: tuple[str, ...],
        values: dict[str, Any],
        *,
        is_end: bool = False,
    ) -> Alert:
        rule = kept.rule
        kept.alerts += 1
        if not is_end:
            group.told = observation.time
            if group.kept_back:
                values = {**values, "kept_back": group.kept_back}
                group.kept_back = 0
        content = (kept.values.digest, group.key, kept.alerts, observation.exchange, observation.sample)
        return Alert(
            id=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32],
            time=observation.time,
            rule=rule.name,
            kind=rule.kind,
            severity=rule.severity,
            message=message,
            origin=_origin(rule, group, observation.origin),
            exchange=observation.exchange,
            watched=watched,
            values=values,
            is_end=is_end,
        )


def _is_same(kept: _Kept, before: _Kept | None) -> bool:
    return before is not None and before.values.digest == kept.values.digest


def _may_tell(rule: Rule, group: Group, time: float) -> bool:
    """Whether no cool-down is under way."""
    return group.told is None or not rule.cool_down_s or time - group.told >= rule.cool_down_s


def _keep_back(kept: _Kept, group: Group) -> None:
    kept.kept_back += 1
    group.kept_back += 1


def _origin(rule: Rule, group: Group, origin: Origin) -> Origin:
    """Where what fired came from: of an exchange all that is known, of a window what the rule tells apart."""
    if not isinstance(rule, RateRule):
        return origin
    known = {name: only[0] for name in ORIGIN_FIELDS if (only := getattr(rule.where, name)) and len(only) == 1}
    if group.key is not None:
        known |= dict(zip(rule.each, group.key, strict=True))
    return Origin(**known)
