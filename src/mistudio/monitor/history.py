"""What was seen and told, kept in one folder within bounds, and found again after a crash as it was committed.

::

    with History(folder, HistoryConfig()) as history:
        history.commit(observations, alerts, {"rules": rules}, {"drift": detector.delta()})
        history.state("drift")

One process writes; its threads, and others that open the folder to read, may read meanwhile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from mistudio.monitor.history_config import HistoryConfig
from mistudio.monitor.records import Alert, Observation, Origin

Redaction = Callable[[str], str]


class SavedState(NamedTuple):
    """What was saved under a name: a whole, and what was added to it since."""

    whole: bytes | None
    deltas: tuple[bytes, ...]


@dataclass(frozen=True)
class Seen:
    """A sample as it was kept.

    Attributes:
        number: of the sample in the history, ascending.
        exchange: id of its request.
        sample: which of its samples.
        time: of the exchange, in seconds since 1970.
        origin: of the exchange.
        num_tokens: that were read.
        watched: value of each column by name.
        places: token of each value, by name.
        fired: the strongest features by URI: number, tokens, largest value.
        text: redacted; None: it was not kept.
    """

    number: int
    exchange: str
    sample: int
    time: float
    origin: Origin
    num_tokens: int
    watched: Mapping[str, float]
    places: Mapping[str, int]
    fired: Mapping[str, Sequence[tuple[int, int, float]]]
    text: str | None


class History:
    """What was seen and told.

    Args:
        folder: where it lies; it is made.
        config: bounds.
        names: of the watched columns, in their order.
        redact: is called with a text before it is kept, after the patterns of the settings.

    Raises:
        InputError: another process writes to it, or it is of a version that this library does not read.
        StorageError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        config: HistoryConfig | None = None,
        names: Sequence[str] = (),
        redact: Redaction | None = None,
    ) -> None:
        raise NotImplementedError

    def commit(
        self,
        observations: Sequence[Observation] = (),
        alerts: Sequence[Alert] = (),
        states: Mapping[str, bytes] | None = None,
        deltas: Mapping[str, bytes] | None = None,
    ) -> None:
        """Keep all of it or, after a crash, nothing.

        Args:
            observations: in the order of traffic.
            alerts: what was told of them.
            states: by name, what takes the place of what was saved there, deltas included.
            deltas: by name, what is added to what was saved there.

        Raises:
            StorageFull: no space is left; what was committed before stays.
            StorageError: the database cannot be written.
        """
        raise NotImplementedError

    def state(self, name: str) -> SavedState:
        """What was last committed under a name."""
        raise NotImplementedError

    def samples(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        exchange: str | None = None,
        feature: str | None = None,
        column: str | None = None,
        min_value: float | None = None,
        origin: Mapping[str, str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Seen]:
        """Samples that match all that is given, the newest first.

        Args:
            since: time from which on.
            until: time before which.
            exchange: id of a request.
            feature: ``uri#number`` of a feature that is among the strongest of a sample.
            column: name of a watched column.
            min_value: least value of that column.
            origin: model, endpoint, namespace or tenant, by name.
            before: number of the last sample that is known already, for the next page.
            limit: at most so many, up to 1,000.

        Raises:
            InputError: a limit, a name or a feature is none.
        """
        raise NotImplementedError

    def alerts(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        rule: str | None = None,
        kind: str | None = None,
        watched: str | None = None,
        exchange: str | None = None,
        limit: int = 100,
    ) -> list[Alert]:
        """Alerts that match all that is given, the newest first; errors as :meth:`samples`."""
        raise NotImplementedError

    def acknowledge(self, alert: str) -> Alert:
        """Note that somebody has seen an alert, and give it.

        Raises:
            NotFound: there is none of this id.
        """
        raise NotImplementedError

    def counts(self) -> dict[str, Any]:
        """Samples and alerts that are kept and that were dropped, the oldest time, and bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the folder."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
