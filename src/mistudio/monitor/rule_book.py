"""Rules at work: what was seen goes in, alerts come out; the same traffic gives the same alerts."""

from typing import Any

from mistudio.monitor.records import Alert, Observation
from mistudio.monitor.rules import Rules
from mistudio.monitor.watch_list import WatchList


class RuleBook:
    """Rules with their state. It knows no clock: time is that of the traffic.

    Args:
        rules: checked as a whole.
        watch_list: what they name, with its thresholds filled in.

    Raises:
        ConfigError: a rule names a column that is not watched, or one without a threshold.
    """

    def __init__(self, rules: Rules, watch_list: WatchList) -> None:
        raise NotImplementedError

    def update(self, observation: Observation) -> list[Alert]:
        """What is to be told of a sample; those of one exchange come one after the other."""
        raise NotImplementedError

    def replaced(self, rules: Rules) -> "RuleBook":
        """A book of other rules; those that stay the same keep their state.

        Raises:
            ConfigError: as for a new one; this one stays as it is.
        """
        raise NotImplementedError

    def state(self) -> bytes:
        """All that has to be kept to go on later, as JSON."""
        raise NotImplementedError

    @classmethod
    def restored(cls, rules: Rules, watch_list: WatchList, state: bytes) -> "RuleBook":
        """A book that goes on where another one was; rules that have changed since begin anew.

        Raises:
            ConfigError: as for a new one.
            InputError: the state is none.
        """
        raise NotImplementedError

    def status(self) -> list[dict[str, Any]]:
        """Of each rule what it says, and what it has met, for people."""
        raise NotImplementedError
