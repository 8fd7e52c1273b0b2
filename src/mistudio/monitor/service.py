"""The monitor: traffic comes in from any thread, one reads and judges it, and what was seen can be asked for.

::

    with MonitorService(served, MonitorConfig(watch_list=path)) as monitor:
        monitor.take(headers, body)          # an event of a logger
        monitor.history.alerts()
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

from mistudio.artifacts.record import record_action
from mistudio.instrument.served import Served
from mistudio.monitor.calibrate.calibration import with_calibration
from mistudio.monitor.config import MonitorConfig
from mistudio.monitor.conversation import Conversation
from mistudio.monitor.direct import DirectReader
from mistudio.monitor.direct_requests import Asked
from mistudio.monitor.drift.changes import RULE as DRIFT_RULE
from mistudio.monitor.following import Following
from mistudio.monitor.history.history import History
from mistudio.monitor.judging import Judging
from mistudio.monitor.live import Live, Wanted
from mistudio.monitor.missed import missed
from mistudio.monitor.opening import (
    open_history,
    open_recorder,
    open_rules,
    open_watch_list,
    restored_drift,
    restored_rules,
    watch_config,
)
from mistudio.monitor.records import Alert, Observation
from mistudio.monitor.rules.actions import Actions
from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.stats import MonitorStats, Tally
from mistudio.monitor.traffic.events import EventsRead
from mistudio.monitor.traffic.inlet import Inlet
from mistudio.monitor.watch.watching import Watcher
from mistudio.monitor.worker import Handed, Worker


class MonitorService:
    """Watches traffic with a session's model; start it, or use it in a ``with`` block.

    Args:
        served: the model and its autoencoders; it is not closed.
        config: what is watched, and how much is kept.
        chat_template: to be used in place of the tokenizer's own.
        follows_generated: whether something generates in this process, to be followed unless the settings say not.
        inlet: where traffic came in already; None: it begins here.
        clock: seconds since 1970.

    Attributes:
        inlet: where traffic comes in.
        history: what was seen and told.
        live: those who follow.
        watch_list: with its thresholds.
        following: follows what this process generates; None: it is not followed.

    Raises:
        ConfigError: files of the settings are refused, or do not fit each other.
        NotFound: what the watch list names is not there.
        InputError: another process has the folder.
        StorageError: the folder cannot be written.
    """

    def __init__(
        self,
        served: Served,
        config: MonitorConfig | None = None,
        *,
        chat_template: str | None = None,
        follows_generated: bool = False,
        inlet: Inlet | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.config = config = config or MonitorConfig()
        self._tally, self._store = Tally(), served.store
        self.inlet = inlet or Inlet(config.traffic, clock)
        reading = watch_config(config)
        listed = open_watch_list(config, served)
        self._watcher = watcher = Watcher(served, listed, reading, chat_template=chat_template)
        self.columns = watcher.columns
        self.watch_list = with_calibration(watcher.watch_list, self.columns, served.store)
        names = self.watch_list.names
        self.live = Live(self.columns, config.subscribers, config.subscriber_events)
        self._handed = Handed(config.traffic.max_queue)
        self.following = None
        if follows_generated and config.follow_generated:
            self.following = Following(
                served,
                self.watch_list,
                self.live,
                self._handed.put,
                realigned=[one.name for one in self.columns if one.is_realigned],
                tells_words=config.tell_words,
            )
        self.history: History = open_history(config, served, self.columns)
        try:
            rules, book = restored_rules(self.history, open_rules(config), self.watch_list, self.columns)
            self._actions = Actions(rules, self.following)
            self._use(rules)
            self._drift = restored_drift(self.history, config, served, self.columns)
            self.judging = Judging(rules, book, self._drift, self.history, self._actions, self.live, self._tally)
            recorder = open_recorder(config)
        except BaseException:
            self.history.close()
            raise
        self._worker = Worker(
            self.inlet.intake,
            self._handed,
            watcher,
            self.judging,
            self.live,
            config.traffic,
            config.at_once_tokens,
            self._tally,
            recorder,
            clock,
        )
        another = Watcher(served, self.watch_list, reading, chat_template=chat_template)
        self._direct = DirectReader(another, names, self._would_alert)
        self._is_closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether traffic is read, and will be."""
        return self._worker.is_alive

    def start(self) -> None:
        """Begin to read."""
        self._worker.start()

    # What comes in

    def take(self, headers: Mapping[str, str], body: bytes) -> EventsRead:
        """Take what a logger posts: see :meth:`~mistudio.monitor.traffic.inlet.Inlet.take`."""
        return self.inlet.take(headers, body)

    def observe(self, asked: Asked, request: str = "") -> dict[str, Any]:
        """Read something at once: see :class:`~mistudio.monitor.direct.DirectReader`.

        Raises:
            InputError: it cannot be read.
        """
        found = self._direct.read(asked, request)
        if asked.record:
            found["recorded"] = self._handed.put(asked.exchange(request))
        return found

    def conversation(self) -> Conversation:
        """A conversation that a client sends piece by piece."""
        return Conversation(self._direct, self.watch_list.names, self.config.conversation_tokens)

    # Rules

    @property
    def rules(self) -> Rules:
        """Those that hold."""
        return self.judging.rules

    def put_rules(self, rules: Rules, by: str) -> Alert:
        """Judge by other rules from now on; on record in the history, and in the store where that is written too.

        Args:
            rules: in place of all that there are.
            by: who wants it.

        Returns:
            What is on record of it.

        Raises:
            ConfigError: they cannot be used; nothing is changed then.
            StorageError: they cannot be kept; nothing is changed then.
        """
        note = self.judging.replace(rules, by, self._use)
        if not self._store.read_only:
            record_action(self._store, "replace", "monitor/rules", rules.digest, by=by, rules=len(rules.rules))
        return note

    def rules_status(self) -> dict[str, Any]:
        """The rules, and what each of them and each action has met; without addresses, which may be secret."""
        return {
            "digest": self.rules.digest,
            "rules": self.rules.model_dump(mode="json", exclude_defaults=True, exclude={"actions"}),
            "met": self.judging.status(),
            "actions": self._actions.status(),
        }

    # What it is at

    def missed(self, wanted: Wanted, last: int) -> list[dict[str, Any]]:
        """What a follower missed since an event that it knows, as far as the history has it: without values by token.

        Args:
            wanted: what it wants to be told.
            last: id of the event.
        """
        return missed(self.history, self.columns, wanted, last)

    def description(self) -> dict[str, Any]:
        """What is watched, and how."""
        return {
            "watched": [
                {
                    "name": one.name,
                    "feature": one.feature,
                    "hook": one.hook,
                    "label": one.label,
                    "threshold": watched.threshold,
                    "is_realigned": one.is_realigned,
                }
                for one, watched in zip(self.columns, self.watch_list.watched, strict=True)
            ],
            "watch_list": self.watch_list.digest,
            "rules": {"digest": self.rules.digest, "names": [rule.name for rule in self.rules.rules]},
            "encoded_in_full": list(self.watch_list.encode_in_full),
            "watches_drift": self._drift is not None,
            "keeps_text": self.config.history.keep_text,
            "follows_generated": self.following is not None,
        }

    def stats(self) -> MonitorStats:
        """Counts and depths; from any thread, without waiting for the worker."""
        came, numbers = self.inlet.stats(), self._tally.numbers
        return replace(
            came,
            events={**came.events, "recorded": numbers["recorded"]},
            exchanges={**came.exchanges, "not_handed": self._handed.num_dropped},
            samples=numbers["samples"],
            tokens=numbers["tokens"],
            batches=numbers["batches"],
            reading_s=self._tally.reading_s,
            set_aside=numbers["set_aside"],
            unread={**self._worker.problems, **self._watcher.counts},
            failures=dict(self._tally.failures),
            alerts={**self._never_raised(), **self._tally.alerts},
            stopped=0 if self.following is None else self.following.num_stopped,
            actions=_by_outcome(self._actions.counts()),
            queue_events=came.queue_events + len(self._handed),
            lag_s=self._tally.lag_s,
            drift_log_e=self._tally.drift_log_e,
            history_rows=self._tally.kept.get("rows", 0),
            history_bytes=self._tally.kept.get("bytes", 0),
            subscribers=self.live.num_followers,
            subscriber_dropped=self.live.num_dropped,
        )

    # The end

    def drain(self, timeout_s: float) -> bool:
        """Take nothing more, and read what is there, up to a time; whether all of it was."""
        self.inlet.intake.close()
        return self._worker.drain(timeout_s)

    def close(self) -> None:
        """End, and let go of the folder; again: nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self.inlet.intake.close(let_go=False)
        self._worker.close()
        self._actions.close()
        self.history.close()

    def _never_raised(self) -> dict[str, int]:
        """A count of 0 of all that may alert: an increase from nothing at all would not be seen as one."""
        drift = () if self._drift is None else (DRIFT_RULE,)
        return dict.fromkeys((*(rule.name for rule in self.rules.rules), *drift), 0)

    def _use(self, rules: Rules) -> None:
        if self.following is not None:
            self.following.use(rules)

    def _would_alert(self, observation: Observation) -> list[Alert]:
        return RuleBook(self.rules, self.watch_list).update(observation)


def _by_outcome(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Counts of all actions together, by what became of them."""
    found: dict[str, int] = {}
    for each in counts.values():
        for outcome, count in each.items():
            found[outcome] = found.get(outcome, 0) + count
    return found
