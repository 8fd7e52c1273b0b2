"""What one commit writes into the history."""

import json
import sqlite3
from collections.abc import Mapping, Sequence

from mistudio.errors import InputError
from mistudio.monitor.history.config import HistoryConfig
from mistudio.monitor.history.rows import (
    ALERT_COLUMNS,
    SAMPLE_COLUMNS,
    Keeping,
    alert_row,
    fired_in,
    sample_row,
)
from mistudio.monitor.records import Alert, Observation


class Writing:
    """Writes rows within a transaction of the caller's.

    Args:
        database: whose.
        config: what is kept.
        keeping: of texts.
    """

    def __init__(self, database: sqlite3.Connection, config: HistoryConfig, keeping: Keeping) -> None:
        self._database, self._config, self._keeping = database, config, keeping

    def samples(self, observations: Sequence[Observation], identities: Mapping[str, str]) -> int | None:
        """Samples, and by which features they are found; the number of the first.

        Raises:
            InputError: an observation has other columns than named.
        """
        first: int | None = None
        columns = self._number("columns", "identities", json.dumps(dict(identities)))
        uris = dict.fromkeys(uri for each in observations for uri in each.fired)
        autoencoders = {uri: self._number("autoencoders", "uri", uri) for uri in uris}
        for each in observations:
            if len(each.max_W) != len(identities):
                message = f"An observation has {len(each.max_W)} columns, and {len(identities)} are named: name all."
                raise InputError(message)
            row = sample_row(each, columns, autoencoders, self._config.top_features, self._keeping.text(each))
            number = self._insert("samples", SAMPLE_COLUMNS, row).lastrowid
            keys = [(*key, number) for key in fired_in(row[SAMPLE_COLUMNS.index("fired")])]
            self._database.executemany("INSERT INTO fired VALUES (?, ?, ?)", keys)
            first = number if first is None else first
        return first

    def alerts(self, alerts: Sequence[Alert]) -> None:
        """Alerts, and by what they are found."""
        for alert in alerts:
            inserted = self._insert("alerts", ALERT_COLUMNS, alert_row(alert), or_ignore=True)
            if inserted.rowcount:
                rows = [(watched, inserted.lastrowid) for watched in dict.fromkeys(alert.watched)]
                self._database.executemany("INSERT INTO alert_watched VALUES (?, ?)", rows)

    def states(self, wholes: Mapping[str, bytes], deltas: Mapping[str, bytes]) -> None:
        """States by name; a whole one takes the place of what was there."""
        for name, whole in wholes.items():
            self._database.execute("DELETE FROM deltas WHERE name = ?", (name,))
            self._database.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (name, whole))
        for name, content in deltas.items():
            self._database.execute("INSERT INTO deltas (name, content) VALUES (?, ?)", (name, content))

    def _insert(
        self, table: str, columns: Sequence[str], row: Sequence[object], *, or_ignore: bool = False
    ) -> sqlite3.Cursor:
        verb = "INSERT OR IGNORE" if or_ignore else "INSERT"
        marks = ", ".join("?" * len(columns))
        return self._database.execute(f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)  # noqa: S608  # nosec B608

    def _number(self, table: str, column: str, value: str) -> int:
        """The number of a name, which it gets when it first comes."""
        self._database.execute(f"INSERT OR IGNORE INTO {table} ({column}) VALUES (?)", (value,))  # noqa: S608  # nosec B608
        found = self._database.execute(f"SELECT number FROM {table} WHERE {column} = ?", (value,))  # noqa: S608  # nosec B608
        return int(found.fetchone()[0])
