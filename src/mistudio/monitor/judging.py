"""What is made of what was seen: alerts by rules and by drift, kept in one transaction, then acted on and told.

A step that fails is counted and logged, and the others go on: a rule that cannot be judged hides no drift, and a full
disk stops no alert.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mistudio.errors import InputError
from mistudio.monitor.drift.detector import Change, DriftDetector
from mistudio.monitor.history.history import History
from mistudio.monitor.live import Live
from mistudio.monitor.live_events import alert_event, sample_event
from mistudio.monitor.records import Alert, Observation
from mistudio.monitor.rules.actions import Actions
from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.rules.saved import RULES_STATE, saved_rules
from mistudio.monitor.stats import Tally
from mistudio.monitor.watch.watching import TokenValues

logger = logging.getLogger(__name__)

BOOK_STATE, DRIFT_STATE = "rule-book", "drift"
_MOST_DELTAS = 256  # of drift, after which its state is saved as a whole
_LOOK_S = 1.0
NOTE = "note"  # kind of an alert that says what somebody did


class Judging:
    """Rules, drift, history, actions and followers, one batch after the other; for any thread.

    Args:
        rules: that the book is of.
        book: with its state.
        drift: with its state; None: drift is not looked for.
        history: where all is kept.
        actions: of the rules.
        live: who is told.
        tally: where failures and alerts are counted.
    """

    def __init__(
        self,
        rules: Rules,
        book: RuleBook,
        drift: DriftDetector | None,
        history: History,
        actions: Actions,
        live: Live,
        tally: Tally,
    ) -> None:
        self.rules, self._book, self._drift = rules, book, drift
        self._history, self._actions, self._live, self._tally = history, actions, live, tally
        self._num_deltas = _MOST_DELTAS  # the first save is of the whole state
        self._look_at = 0.0
        self._lock = threading.Lock()
        self._look()

    def judge(
        self,
        observations: Sequence[Observation],
        tokens: Sequence[TokenValues | None] = (),
        *,
        is_traffic: bool = True,
    ) -> list[Alert]:
        """Make of some observations what is to be made of them.

        Args:
            observations: of whole exchanges, those of one exchange one after the other.
            tokens: of each, its values by token, where somebody follows these.
            is_traffic: whether drift counts them: not those of answers that are steered here.
        """
        with self._lock:
            alerts = self._judged(observations, is_traffic=is_traffic)
            first = self._kept(observations, alerts)
            self._look()
        for alert in alerts:
            self._tally.alerts[alert.rule] += 1
            with self._step("actions"):
                self._actions.act(alert)
        self._tell(observations, tokens or [None] * len(observations), alerts, first)
        return alerts

    def replace(self, rules: Rules, by: str, use: Callable[[Rules], None]) -> Alert:
        """Judge by other rules from now on; those that stay the same keep their state.

        Args:
            rules: in place of all that there are.
            by: who wants it.
            use: told of the rules when they hold.

        Returns:
            What is on record of it.

        Raises:
            ConfigError: they cannot be used; then nothing is changed.
            StorageError: they cannot be kept; then nothing is changed.
        """
        with self._lock:
            book = self._book.replaced(rules)
            before, self_rules = self._actions, self.rules
            before.replace(rules)
            note = _note(
                f"The rules were replaced by {by}: there are {len(rules.rules)}, of digest {rules.digest[:16]}."
            )
            try:
                self._history.commit((), [note], {BOOK_STATE: book.state(), RULES_STATE: saved_rules(rules)})
            except Exception:
                before.replace(self_rules)
                raise
            self.rules, self._book = rules, book
            use(rules)
        self._live.tell(alert_event(note, None))
        return note

    def status(self) -> list[dict[str, object]]:
        """Of each rule, what it has met."""
        with self._lock:
            return self._book.status()

    # Drift, which one thread at a time may ask

    def ranked(self, count: int, group: str | None) -> tuple[list[Change], dict[str, int]]:
        """What changed most, and the texts of each stream.

        Raises:
            InputError: drift is not looked for.
        """
        with self._lock:
            drift = self._known_drift()
            return drift.ranked(count, group), dict(drift.groups)

    def acknowledge_drift(self, watched: Sequence[str], group: str | None, by: str, *, rebaseline: bool) -> int:
        """Start the tests of what was told anew; how many there were.

        Args:
            watched: features or columns; none: all that were told.
            group: of one stream alone.
            by: who wants it.
            rebaseline: take what came since a change for what is usual.

        Raises:
            InputError: drift is not looked for.
        """
        with self._lock:
            drift = self._known_drift()
            count = drift.rebaseline(group, watched) if rebaseline else drift.acknowledge(watched, group)
            what = f"{count} changes were {'taken for what is usual' if rebaseline else 'acknowledged'}"
            note = _note(f"{what}, by {by}.")
            self._history.commit((), [note], {DRIFT_STATE: drift.state()})
            self._num_deltas = 0
        self._live.tell(alert_event(note, None))
        return count

    def _known_drift(self) -> DriftDetector:
        if self._drift is None:
            message = "Drift is not looked for here: start the server with a reference, and with all features read."
            raise InputError(message)
        return self._drift

    # The steps of a batch

    def _judged(self, observations: Sequence[Observation], *, is_traffic: bool) -> list[Alert]:
        alerts: list[Alert] = []
        for observation in observations:
            with self._step("rules"):
                alerts += self._book.update(observation)
        if self._drift is not None and is_traffic:
            with self._step("drift"):
                alerts += self._drift.update(observations)
        return alerts

    def _kept(self, observations: Sequence[Observation], alerts: Sequence[Alert]) -> int | None:
        """Keep a batch with the state that has counted it; number of its first sample in the history."""
        states, deltas = {BOOK_STATE: self._book.state()}, dict[str, bytes]()
        if self._drift is not None:
            if self._num_deltas >= _MOST_DELTAS:
                states[DRIFT_STATE] = self._drift.state()
                self._num_deltas = 0
            else:
                deltas[DRIFT_STATE] = self._drift.delta()
                self._num_deltas += 1
        first: int | None = None
        is_kept = False
        with self._step("history"):
            first = self._history.commit(observations, alerts, states, deltas)
            is_kept = True
        if not is_kept:
            self._num_deltas = _MOST_DELTAS  # a delta is lost: the next is the whole
        return first

    def _look(self) -> None:
        """Note, now and then, what takes a look at the history and at drift: who asks for counts never waits."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_S
        with self._step("look"):
            kept = self._history.counts()
            self._tally.kept = {"rows": int(kept["samples"]), "bytes": int(kept["bytes"])}
            if self._drift is not None:
                ranked = self._drift.ranked(1)
                self._tally.drift_log_e = ranked[0].log10_e if ranked else 0.0

    def _tell(
        self,
        observations: Sequence[Observation],
        tokens: Sequence[TokenValues | None],
        alerts: Sequence[Alert],
        first: int | None,
    ) -> None:
        if not self._live.num_followers:
            return
        with self._step("live"):
            for number, (one, by_token) in enumerate(zip(observations, tokens, strict=True)):
                event_id = None if first is None else str(first + number)
                self._live.tell(sample_event(one, event_id, by_token))
            for alert in alerts:
                self._live.tell(alert_event(alert, None))

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """A step whose failure is counted, and keeps nothing else from going on."""
        try:
            yield
        except Exception:
            self._tally.failures[name] += 1
            logger.exception("A step of the monitor failed: %s", name)


def _note(message: str) -> Alert:
    """What somebody did, as the history keeps it."""
    return Alert(uuid.uuid4().hex, time.time(), "", NOTE, "info", message)
