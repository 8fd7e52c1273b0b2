"""What was seen and told, kept in one folder within bounds, and found again after a crash as it was committed.

::

    with History(folder, HistoryConfig(), {column.name: column.identity for column in columns}) as history:
        history.commit(observations, alerts, {"rules": rules}, {"drift": detector.delta()})
        history.state("drift")

One process writes; its threads, and others that open the folder to read, may read meanwhile.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from mistudio.errors import InputError, NotFound
from mistudio.monitor.history import queries as history_queries
from mistudio.monitor.history.config import HistoryConfig
from mistudio.monitor.history.database import open_to_read, open_to_write, take_lock, telling_why, used_bytes
from mistudio.monitor.history.dropping import Dropping
from mistudio.monitor.history.queries import AlertQuery, SampleQuery, asked_for
from mistudio.monitor.history.rows import Keeping, Redaction, Seen, alert_of
from mistudio.monitor.history.writing import Writing
from mistudio.monitor.records import Alert, Observation
from mistudio.plain_text import shortened

__all__ = ["AlertQuery", "History", "HistoryConfig", "SampleQuery", "SavedState", "Seen"]

_IDLE_CONNECTIONS = 8
_PAGES_GIVEN_BACK = 256  # of what was dropped, after a commit


class SavedState(NamedTuple):
    """What was saved under a name: a whole, and what was added to it since."""

    whole: bytes | None
    deltas: tuple[bytes, ...]


class History:
    """What was seen and told.

    Args:
        folder: where it lies; it is made.
        config: bounds; None: as usual.
        identities: of the watched columns by name, in their order; none: those of the newest sample are told by name.
        redact: is called with a text before it is kept, after the patterns of the settings.
        clock: seconds since 1970, by which age is told.
        read_only: another process writes it.

    Raises:
        InputError: another process writes to it, or it is of a version that this library does not read.
        StorageError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        config: HistoryConfig | None = None,
        identities: Mapping[str, str] | None = None,
        redact: Redaction | None = None,
        clock: Callable[[], float] = time.time,
        *,
        read_only: bool = False,
    ) -> None:
        self.folder, self.config, self._clock = folder, config or HistoryConfig(), clock
        self._identities = dict(identities or {})
        self._keeping = Keeping(self.config, redact)
        self._idle: list[sqlite3.Connection] = []
        self._lock, self._is_open = threading.Lock(), True
        self._lock_file = None if read_only else take_lock(folder)
        try:
            self._database = None if read_only else open_to_write(folder)
        except BaseException:
            self._drop_lock()
            raise

    def commit(
        self,
        observations: Sequence[Observation] = (),
        alerts: Sequence[Alert] = (),
        states: Mapping[str, bytes] | None = None,
        deltas: Mapping[str, bytes] | None = None,
    ) -> int | None:
        """Keep all of it or, after a crash, nothing; and drop what is beyond the bounds.

        The number of the first of the samples in the history is returned; None where there are none.

        Args:
            observations: in the order of traffic.
            alerts: what was told of them; one that is there already is left as it is.
            states: by name, what takes the place of what was saved there, deltas included.
            deltas: by name, what is added to what was saved there.

        Raises:
            InputError: the history was opened to be read, or is closed.
            StorageFull: no space is left; what was committed before stays.
            StorageError: the database cannot be written.
        """
        with self._writing() as database:
            writing = Writing(database, self.config, self._keeping)
            first = writing.samples(observations, self._identities)
            writing.alerts(alerts)
            writing.states(states or {}, deltas or {})
            Dropping(database, self.config).drop(self._clock())
        return first

    def state(self, name: str) -> SavedState:
        """What was last committed under a name."""
        with self._reading() as database:
            whole = database.execute("SELECT whole FROM states WHERE name = ?", (name,)).fetchone()
            deltas = database.execute("SELECT content FROM deltas WHERE name = ? ORDER BY number", (name,)).fetchall()
        return SavedState(whole[0] if whole else None, tuple(bytes(each[0]) for each in deltas))

    def num_deltas(self, name: str) -> int:
        """How many deltas were added since the whole was committed: with many of them, commit a whole."""
        with self._reading() as database:
            return int(database.execute("SELECT count(*) FROM deltas WHERE name = ?", (name,)).fetchone()[0])

    def samples(self, *, origin: Mapping[str, str] | None = None, **asked: Any) -> list[Seen]:
        """Samples that match all that is asked, the newest first.

        A column that has another identity than the one that is watched now goes by ``name@identity``, in what is asked
        and in what is given.

        Args:
            origin: model, endpoint, namespace or tenant, by name.
            asked: fields of :class:`~mistudio.monitor.history.queries.SampleQuery` (since, until, exchange, feature,
                column, min_value, before, limit).

        Raises:
            InputError: one is none of them, or out of range.
        """
        query = asked_for(SampleQuery, {**(origin or {}), **asked})
        with self._reading() as database:
            return history_queries.samples(
                database, query, self._identities or history_queries.last_identities(database)
            )

    def last_identities(self) -> dict[str, str]:
        """Identities of the columns of the newest sample, by name; none where there is no sample."""
        with self._reading() as database:
            return history_queries.last_identities(database)

    def alerts(self, *, origin: Mapping[str, str] | None = None, **asked: Any) -> list[Alert]:
        """Alerts that match all that is asked, the newest first; arguments and errors as :meth:`samples`.

        Fields are those of :class:`~mistudio.monitor.history.queries.AlertQuery` (since, until, exchange, rule, kind,
        watched, is_open, before, limit).
        """
        query = asked_for(AlertQuery, {**(origin or {}), **asked})
        with self._reading() as database:
            return history_queries.alerts(database, query)

    def acknowledge(self, alert: str) -> Alert:
        """Note that somebody has seen an alert, and give it.

        Raises:
            NotFound: there is none of this id.
        """
        with self._writing() as database:
            changed = database.execute(
                "UPDATE alerts SET acknowledged = coalesce(acknowledged, ?) WHERE id = ?", (self._clock(), alert)
            )
            if not changed.rowcount:
                message = f"There is no alert {shortened(alert)} in the history: it was dropped, or never there."
                raise NotFound(message)
            return alert_of(database.execute("SELECT * FROM alerts WHERE id = ?", (alert,)).fetchone())

    def counts(self) -> dict[str, Any]:
        """Samples and alerts that are kept and that were dropped, times of the oldest and newest, and bytes."""
        with self._reading() as database:
            samples = database.execute("SELECT count(*), min(time), max(time) FROM samples").fetchone()
            num_alerts = database.execute("SELECT count(*) FROM alerts").fetchone()[0]
            dropped = dict(tuple(each) for each in database.execute("SELECT what, count FROM dropped"))
            num_bytes = used_bytes(database)
        return {
            "samples": samples[0],
            "oldest": samples[1],
            "newest": samples[2],
            "alerts": num_alerts,
            "dropped_samples": dropped.get("samples", 0),
            "dropped_alerts": dropped.get("alerts", 0),
            "bytes": num_bytes,
        }

    def close(self) -> None:
        """Let go of the folder."""
        with self._lock:
            self._is_open = False
            for database in (*self._idle, *([self._database] if self._database else [])):
                database.close()
            self._idle.clear()
            self._database = None
            self._drop_lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the one connection that writes."""
        with self._lock, telling_why(self.folder):
            if self._database is None:
                message = f"The history in {self.folder} is {'to be read alone' if self._is_open else 'closed'}."
                raise InputError(message)
            self._database.row_factory = sqlite3.Row
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute(f"PRAGMA incremental_vacuum({_PAGES_GIVEN_BACK})").fetchall()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else reads by meanwhile, and one view of the database for all that is read."""
        with self._lock:
            if not self._is_open:
                message = f"The history in {self.folder} is closed."
                raise InputError(message)
            database = self._idle.pop() if self._idle else None
        with telling_why(self.folder):
            database = database or open_to_read(self.folder)
            database.row_factory = sqlite3.Row
            try:
                database.execute("BEGIN")
                yield database
            finally:
                database.execute("ROLLBACK")
                self._give_back(database)

    def _give_back(self, database: sqlite3.Connection) -> None:
        with self._lock:
            if self._is_open and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(database)
            else:
                database.close()

    def _drop_lock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None
