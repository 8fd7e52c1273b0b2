"""What is beyond the bounds of the history is dropped, the oldest first, and counted."""

import sqlite3

from mistudio.monitor.history.config import HistoryConfig
from mistudio.monitor.history.database import used_bytes
from mistudio.monitor.history.rows import fired_in

_AT_ONCE = 2000  # rows of a step, and at most so many in a commit by age and number: a large backlog takes several
_SHARE = 20  # of what is kept, one in so many is dropped where there are too many bytes


class Dropping:
    """Drops rows within a transaction of the caller's.

    Args:
        database: whose.
        config: the bounds.
    """

    def __init__(self, database: sqlite3.Connection, config: HistoryConfig) -> None:
        self._database, self._config = database, config

    def drop(self, now: float) -> None:
        """Drop what is too old, too many, or takes too many bytes."""
        oldest = now - self._config.retention_s
        self._drop_samples("SELECT number, fired FROM samples WHERE time < ? ORDER BY time LIMIT ?", oldest, _AT_ONCE)
        self._drop_alerts("SELECT number FROM alerts WHERE time < ? LIMIT ?", oldest, _AT_ONCE)
        self._drop_oldest("samples", self._count("samples") - self._config.max_rows)
        self._drop_oldest("alerts", self._count("alerts") - self._config.max_alerts)
        while used_bytes(self._database) > self._config.max_bytes:
            num_samples, num_alerts = self._count("samples"), self._count("alerts")
            if not num_samples + num_alerts:
                return  # what is left are states, without which counts would be lost
            self._drop_oldest("samples", -(-num_samples // _SHARE))
            if not num_samples:
                self._drop_oldest("alerts", -(-num_alerts // _SHARE))

    def _count(self, table: str) -> int:
        """Rows of a table, those counted that were dropped between others by their age: so as not to read them all."""
        span = f"SELECT coalesce(max(number) - min(number) + 1, 0) FROM {table}"  # noqa: S608  # nosec B608
        return int(self._database.execute(span).fetchone()[0])

    def _drop_oldest(self, table: str, count: int) -> None:
        if count <= 0:
            return
        if table == "samples":
            self._drop_samples("SELECT number, fired FROM samples ORDER BY number LIMIT ?", count)
        else:
            self._drop_alerts("SELECT number FROM alerts ORDER BY number LIMIT ?", count)

    def _drop_samples(self, chosen: str, *arguments: float) -> None:
        rows = self._database.execute(chosen, arguments).fetchall()
        keys = [(*key, number) for number, fired in rows for key in fired_in(fired)]
        self._database.executemany("DELETE FROM fired WHERE autoencoder = ? AND feature = ? AND sample = ?", keys)
        self._database.executemany("DELETE FROM samples WHERE number = ?", [(number,) for number, _ in rows])
        self._note("samples", len(rows))

    def _drop_alerts(self, chosen: str, *arguments: float) -> None:
        rows = self._database.execute(chosen, arguments).fetchall()
        self._database.executemany("DELETE FROM alerts WHERE number = ?", [tuple(row) for row in rows])
        self._note("alerts", len(rows))

    def _note(self, what: str, count: int) -> None:
        if count:
            self._database.execute(
                "INSERT INTO dropped VALUES (?, ?) ON CONFLICT (what) DO UPDATE SET count = count + excluded.count",
                (what, count),
            )
