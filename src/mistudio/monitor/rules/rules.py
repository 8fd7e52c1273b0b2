"""Rules: when what was seen in traffic is to be told, to whom, and how loudly.

::

    version: 1
    actions:
      page: {do: webhook, url: "https://alerts.example.org/mistudio"}
    rules:
    - name: trigger-seen
      kind: threshold
      watched: trigger
      severity: critical
      cool_down_s: 60
      actions: [log, page]
    - name: trigger-often
      kind: rate
      watched: trigger
      share: 0.02
      last_exchanges: 500
      where: {endpoint: [canary]}
      each: [tenant]
    - name: two-of-three
      kind: set
      watched: [refusal, deceit, trigger]
      at_least: 2

``log`` and ``counter`` are actions without a declaration.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mistudio.monitor.records import Origin
from mistudio.monitor.watch.watch_list import Name, Part, Pool
from mistudio.monitor.watch.written_files import digest_of, read_written
from mistudio.settings import Settings

Severity = Literal["info", "warning", "critical"]
OriginField = Literal["model", "endpoint", "namespace", "tenant"]
ORIGIN_FIELDS: tuple[OriginField, ...] = ("model", "endpoint", "namespace", "tenant")
BUILT_IN_ACTIONS = ("log", "counter")
MOST_RULES, MOST_WINDOW, MOST_GROUPS = 1000, 100_000, 100_000
DRIFT = "drift"  # in place of a rule's name, in alerts of drift
_YEAR_S = 366 * 86400.0
_MOST = 1e9

Values = Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]


class Origins(Settings):
    """Traffic from some places: what is given has to be one of the values; what is not given may be anything."""

    model: Values | None = Field(None, description="names of the watched model, as requests call it")
    endpoint: Values | None = Field(None, description="parts of its service: predictor, canary, and the like")
    namespace: Values | None = Field(None, description="of the service")
    tenant: Values | None = Field(None, description="who asked")

    def has(self, origin: Origin) -> bool:
        """Whether traffic from there is meant."""
        for name in ORIGIN_FIELDS:
            wanted = getattr(self, name)
            if wanted is not None and getattr(origin, name) not in wanted:
                return False
        return True


def _each_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        message = f"one is named twice: {', '.join(value)}"
        raise ValueError(message)
    return value


class _Rule(Settings, ABC):
    name: Name
    notes: str = Field("", max_length=4000, description="for people: what it is for, and what to do about it")
    pool: Pool | None = Field(None, description="max or top; None: as the watch list has it for the column")
    part: Part | None = Field(None, description="all, prompt or reply; None: as the watch list has it for the column")
    above: float | None = Field(
        None, ge=-_MOST, le=_MOST, description="value that has to be exceeded; None: the column's threshold"
    )
    where: Origins = Field(Origins(), description="traffic that the rule is for")
    each: Annotated[tuple[OriginField, ...], AfterValidator(_each_once)] = Field(
        (), description="what is told apart: the rule has a state of its own for each value"
    )
    max_groups: int = Field(
        1000, ge=1, le=MOST_GROUPS, description="values that are told apart at once; all others share one state"
    )
    cool_down_s: float = Field(
        0.0, ge=0, le=_YEAR_S, description="seconds of traffic after an alert in which no other is told"
    )
    severity: Severity = Field("warning", description="how bad it is")
    actions: Annotated[tuple[Name, ...], AfterValidator(_each_once)] = Field(
        ("log", "counter"), max_length=16, description="names of actions"
    )

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of the watched columns that it looks at."""

    @model_validator(mode="after")
    def _value_fits(self) -> "_Rule":
        if (self.pool is not None or self.part is not None) and self.above is None:
            message = (
                f"{self.name}: pool and part change what a value is, so that it needs a threshold of its own: above"
            )
            raise ValueError(message)
        return self


class ThresholdRule(_Rule):
    """A column above its threshold in an exchange.

    Without ``off`` each such exchange is told (but for the cool-down). With it the first is told, and that it is over
    when ``off_after`` exchanges in a row were at ``off`` or below.
    """

    kind: Literal["threshold"]
    watched: Name
    off: float | None = Field(None, ge=-_MOST, le=_MOST, description="value at or below which it is over again")
    off_after: int = Field(1, ge=1, le=MOST_WINDOW, description="exchanges in a row that end it")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one that it looks at."""
        return (self.watched,)

    @model_validator(mode="after")
    def _off_is_below(self) -> "ThresholdRule":
        if self.off is not None and self.above is not None and self.off > self.above:
            message = f"{self.name}: off ({self.off:g}) is more than above ({self.above:g}): it would never be on"
            raise ValueError(message)
        if self.off is None and self.off_after != 1:
            message = f"{self.name}: off_after is for rules with off: give off too"
            raise ValueError(message)
        return self


class RateRule(_Rule):
    """The share of exchanges with a column above its threshold, within a window.

    It is told when the share exceeds ``share``, and that it is over when it is at ``off_share`` or below.
    """

    kind: Literal["rate"]
    watched: Name
    share: float = Field(ge=0, lt=1, description="of the window's exchanges, which has to be exceeded")
    off_share: float | None = Field(None, ge=0, lt=1, description="at or below which it is over; None: share")
    last_exchanges: int | None = Field(None, ge=1, le=MOST_WINDOW, description="the window: so many exchanges")
    last_s: float | None = Field(None, gt=0, le=_YEAR_S, description="the window: so many seconds of traffic")
    min_exchanges: int = Field(20, ge=1, le=MOST_WINDOW, description="with fewer in the window nothing is told")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one that it looks at."""
        return (self.watched,)

    @model_validator(mode="after")
    def _window_is_one(self) -> "RateRule":
        if (self.last_exchanges is None) == (self.last_s is None):
            message = f"{self.name}: give last_exchanges or last_s, one of the two"
            raise ValueError(message)
        if self.last_exchanges is not None and self.min_exchanges > self.last_exchanges:
            message = f"{self.name}: min_exchanges ({self.min_exchanges}) is more than last_exchanges has"
            raise ValueError(message)
        if self.off_share is not None and self.off_share > self.share:
            message = f"{self.name}: off_share ({self.off_share:g}) is more than share ({self.share:g})"
            raise ValueError(message)
        return self


class SetRule(_Rule):
    """Several columns above their thresholds in one exchange: all, any, or at least so many."""

    kind: Literal["set"]
    watched: Annotated[tuple[Name, ...], AfterValidator(_each_once)] = Field(min_length=1, max_length=4096)
    at_least: Literal["all", "any"] | int = Field("all", description="how many of them")

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that it looks at."""
        return self.watched

    @property
    def least(self) -> int:
        """How many have to be above."""
        return {"all": len(self.watched), "any": 1}.get(str(self.at_least)) or int(self.at_least)

    @model_validator(mode="after")
    def _some_can_be(self) -> "SetRule":
        if not 1 <= self.least <= len(self.watched):
            message = f"{self.name}: at_least {self.at_least} of {len(self.watched)} columns cannot be: from 1 to all"
            raise ValueError(message)
        return self


Rule = Annotated[ThresholdRule | RateRule | SetRule, Field(discriminator="kind")]


class _Sending(Settings):
    url: str | None = Field(None, pattern=r"^https?://", max_length=2000, description="where to")
    url_env: str | None = Field(
        None,
        pattern=r"^MISTUDIO_WEBHOOK_[A-Z0-9_]{1,64}$",
        description="environment variable that holds the address, where that is a secret, in place of url",
    )
    time_out_s: float = Field(10.0, gt=0, le=120, description="seconds that one try may take")
    tries: int = Field(5, ge=1, le=20, description="with pauses that double")
    max_waiting: int = Field(1000, ge=1, le=100_000, description="alerts that wait to be sent; beyond them, dropped")

    @model_validator(mode="after")
    def _goes_somewhere(self) -> "_Sending":
        if (self.url is None) == (self.url_env is None):
            message = "give url or url_env, one of the two"
            raise ValueError(message)
        return self


class WebhookAction(_Sending):
    """Send the alert as JSON by a POST request."""

    do: Literal["webhook"]


class CloudEventAction(_Sending):
    """Send the alert as a CloudEvent in binary mode: attributes in headers, the alert as its data."""

    do: Literal["cloud_event"]
    type: str = Field("org.mistudio.monitor.alert", min_length=1, max_length=200, description="the event's type")
    source: str = Field("mistudio/monitor", min_length=1, max_length=200, description="the event's source")


class StopAction(Settings):
    """End the generation that the alert is about, where it is one of this server's own."""

    do: Literal["stop"]


Action = Annotated[WebhookAction | CloudEventAction | StopAction, Field(discriminator="do")]


class Rules(Settings):
    """All rules, and the actions that they name."""

    version: Literal[1] = Field(1, description="of this form of file")
    rules: tuple[Rule, ...] = Field((), max_length=MOST_RULES)
    actions: dict[Name, Action] = Field(
        default_factory=dict, max_length=64, description="by name; log and counter are there"
    )

    @field_validator("rules")
    @classmethod
    def _names_differ(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        _each_once(tuple(rule.name for rule in rules))
        if any(rule.name == DRIFT for rule in rules):
            message = f"{DRIFT} is what alerts of drift are named: give the rule another name"
            raise ValueError(message)
        return rules

    @model_validator(mode="after")
    def _actions_are_there(self) -> "Rules":
        taken = sorted(set(self.actions) & set(BUILT_IN_ACTIONS))
        if taken:
            message = f"actions: {taken[0]} is there without a declaration: give yours another name"
            raise ValueError(message)
        known = {*BUILT_IN_ACTIONS, *self.actions}
        for rule in self.rules:
            for name in rule.actions:
                if name not in known:
                    message = f"{rule.name}: there is no action {name}; there are {', '.join(sorted(known))}"
                    raise ValueError(message)
        return self

    @cached_property
    def digest(self) -> str:
        """Of all that they say."""
        return digest_of(self)


def read_rules(path: Path) -> Rules:
    """The rules of a file.

    Raises:
        ConfigError: it cannot be read, or is refused; the message says where and why.
    """
    return read_written(path, Rules, "rules")
