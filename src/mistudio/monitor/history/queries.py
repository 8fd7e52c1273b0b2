"""What can be asked of the history, and how it is looked up."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from mistudio.errors import InputError
from mistudio.monitor.history.rows import ORIGIN, Seen, alert_of, seen_of
from mistudio.monitor.records import Alert
from mistudio.plain_text import shortened
from mistudio.settings import Settings, refused

MOST_SHOWN = 1000
MOST_LOOKED_AT = 200_000  # samples whose columns are looked at for one query
Text = Annotated[str, Field(max_length=512)]
Time = Annotated[float, Field(ge=-1e12, le=1e12)]


Query = TypeVar("Query", bound="OfTraffic")


class OfTraffic(Settings):
    """Conditions on when and where; what is not given is none."""

    since: Time | None = Field(None, description="time from which on, in seconds since 1970")
    until: Time | None = Field(None, description="time before which, in seconds since 1970")
    exchange: Text | None = Field(None, description="id of a request")
    model: Text | None = Field(None, description="watched model")
    endpoint: Text | None = Field(None, description="part of its service, such as canary")
    namespace: Text | None = Field(None, description="of the service")
    tenant: Text | None = Field(None, description="who asked")
    before: int | None = Field(
        None, ge=0, le=1 << 62, description="number of the last one of the page before; None: the first page"
    )
    limit: int = Field(100, ge=1, le=MOST_SHOWN, description="how many at most")

    def conditions(self) -> tuple[list[str], list[object]]:
        """As SQL has them, with their values."""
        given = [("time >= ?", self.since), ("time < ?", self.until), ("exchange = ?", self.exchange)]
        given += [(f"{name} = ?", getattr(self, name)) for name in ORIGIN]
        given += [("number < ?", self.before)]
        known = [(condition, value) for condition, value in given if value is not None]
        return [condition for condition, _ in known], [value for _, value in known]


class SampleQuery(OfTraffic):
    """Which samples."""

    feature: Text | None = Field(None, description="uri#number of a feature that is among the strongest of a sample")
    column: Text | None = Field(
        None, description="name of a watched column that was read; name@identity: one that went by that name before"
    )
    min_value: float | None = Field(None, description="least value of that column")


class AlertQuery(OfTraffic):
    """Which alerts."""

    rule: Text | None = Field(None, description="name of the rule, or drift")
    kind: Text | None = Field(None, description="threshold, rate, set or drift")
    watched: Text | None = Field(None, description="name of a column, or a feature as uri#number")
    is_open: bool | None = Field(None, description="whether nobody has acknowledged it")


def asked_for(kind: type[Query], asked: Mapping[str, object]) -> Query:
    """A query of what was asked.

    Raises:
        InputError: a field is unknown, or out of range.
    """
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        message = f"The history cannot be asked so: {refused(error)}"
        raise InputError(message) from error


def samples(database: sqlite3.Connection, query: SampleQuery, identities: Mapping[str, str]) -> list[Seen]:
    """Samples that match, the newest first; columns that are not of these identities go by ``name@identity``.

    Raises:
        InputError: a feature is not given as ``uri#number``, or a least value without its column.
    """
    if query.min_value is not None and query.column is None:
        message = "min_value is of a column: give column too."
        raise InputError(message)
    conditions, values = query.conditions()
    if query.feature is not None:
        uri, number = _feature(query.feature)
        conditions.append("number IN (SELECT sample FROM fired JOIN autoencoders a ON a.number = autoencoder "
                          "WHERE uri = ? AND feature = ?)")  # fmt: skip
        values += [uri, number]
    names = {
        row[0]: [
            name if identities.get(name) == identity else f"{name}@{identity}"
            for name, identity in json.loads(row[1]).items()
        ]
        for row in database.execute("SELECT number, identities FROM columns")
    }
    uris = {row[0]: row[1] for row in database.execute("SELECT number, uri FROM autoencoders")}
    most = query.limit if query.column is None else MOST_LOOKED_AT
    found = []
    chosen = f"SELECT * FROM samples{_where(conditions)} ORDER BY number DESC LIMIT ?"  # noqa: S608  # nosec B608
    for row in database.execute(chosen, (*values, most)):
        if _has_value(row, names[row["columns"]], query):
            found.append(seen_of(row, names[row["columns"]], uris))
        if len(found) == query.limit:
            break
    return found


def last_identities(database: sqlite3.Connection) -> dict[str, str]:
    """Identities of the columns of the newest sample, by name; none where there is no sample."""
    chosen = "SELECT identities FROM columns WHERE number = (SELECT columns FROM samples ORDER BY number DESC LIMIT 1)"
    row = database.execute(chosen).fetchone()
    return {} if row is None else dict(json.loads(row[0]))


def alerts(database: sqlite3.Connection, query: AlertQuery) -> list[Alert]:
    """Alerts that match, the newest first."""
    conditions, values = query.conditions()
    for name in ("rule", "kind"):
        if getattr(query, name) is not None:
            conditions.append(f"{name} = ?")
            values.append(getattr(query, name))
    if query.watched is not None:
        conditions.append("number IN (SELECT alert FROM alert_watched WHERE watched = ?)")
        values.append(query.watched)
    if query.is_open is not None:
        conditions.append(f"acknowledged IS {'' if query.is_open else 'NOT '}NULL")
    chosen = f"SELECT * FROM alerts{_where(conditions)} ORDER BY number DESC LIMIT ?"  # noqa: S608  # nosec B608
    return [alert_of(row) for row in database.execute(chosen, (*values, query.limit))]


def _where(conditions: list[str]) -> str:
    """Conditions are words of this module alone; values go by question marks."""
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _feature(text: str) -> tuple[str, int]:
    uri, hash_sign, number = text.rpartition("#")
    if not hash_sign or not number.isascii() or not number.isdigit() or len(number) > 18:
        message = f"{shortened(text)} is no feature: give uri#number, such as sae/0123456789abcdef#17."
        raise InputError(message)
    return uri, int(number)


def _has_value(row: sqlite3.Row, names: list[str], query: SampleQuery) -> bool:
    if query.column is None:
        return True
    if query.column not in names:
        return False
    value = float(np.frombuffer(row["max"], "<f4")[names.index(query.column)])
    return value >= query.min_value if query.min_value is not None else value == value  # noqa: PLR0124 -- not NaN
