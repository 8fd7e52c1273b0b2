"""What is done with an alert: told in the log, counted, sent, or a generation ended; never in the way of the worker.

What is sent is sent on a thread of its own, each address with a queue of its own
(:mod:`mistudio.monitor.rules.outbox`), so that one that hangs holds up no other.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import httpx

from mistudio.addresses import Reach
from mistudio.errors import ConfigError
from mistudio.monitor.records import Alert
from mistudio.monitor.rules.outbox import DROPPED, Outbox, address_of
from mistudio.monitor.rules.rules import BUILT_IN_ACTIONS, CloudEventAction, Rules, StopAction, WebhookAction
from mistudio.plain_text import shortened

logger = logging.getLogger("mistudio.monitor.rules.alerts")

FIRST_PAUSE_S = 0.5
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
_LOOK_S = 0.02
# They write addresses and headers at their lower levels.
_TALKATIVE = ("httpx", "httpcore")


class Stopper(Protocol):
    """Ends generations of this process."""

    @property
    def models(self) -> frozenset[str]:
        """Names of the models whose generations it can end."""

    def stop(self, exchange: str) -> bool:
        """End the generation of a request, from any thread, without waiting; whether there was one."""


class Fired(NamedTuple):
    """What alerts are counted by."""

    rule: str
    kind: str
    severity: str


class Actions:
    """Does what rules say.

    Args:
        rules: name the actions.
        stopper: ends generations; None: none is generated here.
        reach: how far addresses of rules may lead, which anybody can write who may change rules.
        first_pause_s: seconds before something is sent a second time; pauses double.

    Raises:
        ConfigError: an action cannot be done here: a stop of what is generated elsewhere, an address that is refused.
    """

    def __init__(
        self,
        rules: Rules,
        stopper: Stopper | None = None,
        reach: Reach = Reach.PUBLIC,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._stopper, self._reach, self._pause_s = stopper, reach, first_pause_s
        self._fired: Counter[Fired] = Counter()
        self._stopped: Counter[str] = Counter()
        self._sender: _Sender | None = None
        self._outboxes: dict[str, Outbox] = {}
        self._rules = Rules()
        self.replace(rules)

    def act(self, alert: Alert) -> None:
        """Do what the alert's rule says; what has to wait is queued, and dropped with a count where the queue is full.

        An alert of no rule (of drift) is logged and counted.
        """
        rule = next((rule for rule in self._rules.rules if rule.name == alert.rule), None)
        for name in BUILT_IN_ACTIONS if rule is None else rule.actions:
            if name == "log":
                _log(alert)
            elif name == "counter":
                if not alert.is_end:
                    self._fired[Fired(alert.rule, alert.kind, alert.severity)] += 1
            elif name in self._outboxes and self._sender is not None:
                self._outboxes[name].put(alert, self._sender.loop)
            elif self._stopper is not None and not alert.is_end:
                self._stopped["stopped" if self._stopper.stop(alert.exchange) else "gone"] += 1

    def replace(self, rules: Rules) -> None:
        """Go on with other rules; what waits for an address that is still there stays.

        Raises:
            ConfigError: as for new ones; nothing is changed then.
        """
        self._check_stops(rules)
        sending = {
            name: action
            for name, action in rules.actions.items()
            if isinstance(action, WebhookAction | CloudEventAction)
        }
        urls = {name: address_of(action, name, self._reach) for name, action in sending.items()}
        kept = {name: box for name, box in self._outboxes.items() if sending.get(name) == box.action}
        new = {
            name: Outbox(name, action, urls[name], self._reach, self._pause_s)
            for name, action in sending.items()
            if name not in kept
        }
        if new and self._sender is None:
            self._sender = _Sender()
        gone = [box for name, box in self._outboxes.items() if name not in kept]
        self._outboxes, self._rules = {**kept, **new}, rules
        if self._sender is not None:
            self._sender.change(new.values(), gone)

    def fired(self) -> dict[Fired, int]:
        """How many alerts were counted, by rule, kind and severity."""
        return dict(self._fired)

    def counts(self) -> dict[str, dict[str, int]]:
        """Of each action that sends or stops, what became of its alerts."""
        stopping = {
            name: dict(self._stopped) for name, one in self._rules.actions.items() if isinstance(one, StopAction)
        }
        return {**{name: box.counts() for name, box in self._outboxes.items()}, **stopping}

    def status(self) -> list[dict[str, Any]]:
        """Of each action what it says and how it fares, for people; without what may be secret."""
        counts = self.counts()
        return [
            {
                "name": name,
                **action.model_dump(mode="json", exclude_defaults=True, exclude={"url"}),
                "do": action.do,
                **({"host": self._outboxes[name].shown} if name in self._outboxes else {}),
                **counts.get(name, {}),
            }
            for name, action in self._rules.actions.items()
        ]

    def close(self, wait_s: float = 5.0) -> None:
        """Send what waits for at most so many seconds, then stop; what is left is dropped and counted."""
        if self._sender is None:
            return
        until = time.monotonic() + wait_s
        while time.monotonic() < until and any(box.counts()["waiting"] for box in self._outboxes.values()):
            time.sleep(_LOOK_S)
        self._sender.close(self._outboxes.values())
        self._sender = None
        lost = {name: count for name, box in self._outboxes.items() if (count := box.counts()[DROPPED])}
        if lost:
            logger.warning("Alerts that were not sent: %s", lost)

    def _check_stops(self, rules: Rules) -> None:
        stops = {name for name, action in rules.actions.items() if isinstance(action, StopAction)}
        for rule in rules.rules:
            if not stops & set(rule.actions):
                continue
            here = self._stopper.models if self._stopper is not None else frozenset()
            elsewhere = sorted(set(rule.where.model or ("any model",)) - here)
            if elsewhere:
                message = (
                    f"Rule {rule.name} is to stop generations of {shortened(elsewhere[0])}, which is generated "
                    "elsewhere: a watched external model cannot be stopped. "
                    + (
                        f"Name {', '.join(sorted(here))} as where.model, or take the action out."
                        if here
                        else "Take the action out, or serve steer in the same process."
                    )
                )
                raise ConfigError(message)


class _Sender:
    """A thread with a loop, on which outboxes send."""

    def __init__(self) -> None:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="alerts", daemon=True)
        self._thread.start()

    def change(self, new: Iterable[Outbox], gone: Iterable[Outbox]) -> None:
        """Begin with some outboxes, and end with others, without waiting."""
        asyncio.run_coroutine_threadsafe(self._changed(list(new), list(gone)), self.loop)

    def close(self, outboxes: Iterable[Outbox]) -> None:
        """End with all."""
        asyncio.run_coroutine_threadsafe(self._changed([], list(outboxes)), self.loop).result()
        asyncio.run_coroutine_threadsafe(self._let_go(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _changed(self, new: list[Outbox], gone: list[Outbox]) -> None:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=None)  # each try has a time-out of its own  # noqa: S113
        for box in new:
            box.start(self._client)
        await asyncio.gather(*(box.stop() for box in gone))

    async def _let_go(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _log(alert: Alert) -> None:
    about = f" request {shortened(alert.exchange)}" if alert.exchange else ""
    origin = ", ".join(f"{name} {shortened(value)}" for name, value in vars(alert.origin).items() if value)
    ends = "over: " if alert.is_end else ""
    message = " ".join(alert.message.split())
    logger.log(
        _LEVELS.get(alert.severity, logging.WARNING), "%s%s: %s%s [%s]", ends, alert.rule, message, about, origin
    )
