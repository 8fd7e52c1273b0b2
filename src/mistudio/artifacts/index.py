"""The catalogue's memory: what manifests say, kept in a SQLite file so that each is read once on this machine.

It can be lost at any time. Which artifacts there are is never taken from here, but from a listing of the store; a
manifest is read again when the listing shows another version of it.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio.artifacts.kinds import split_kind
from mistudio.artifacts.manifest import InputRef, JsonScalar, Manifest

INDEX_NAME = "catalog-1.sqlite"  # another number whenever the tables change
_TABLES = """
CREATE TABLE IF NOT EXISTS artifacts (
    uri TEXT PRIMARY KEY, version TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL, created_at TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_kind ON artifacts (kind, created_at);
CREATE INDEX IF NOT EXISTS by_digest ON artifacts (digest);
CREATE TABLE IF NOT EXISTS inputs (child TEXT NOT NULL, uri TEXT NOT NULL, digest TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_child ON inputs (child);
CREATE INDEX IF NOT EXISTS by_input ON inputs (digest);
CREATE INDEX IF NOT EXISTS by_input_uri ON inputs (uri);
"""
_WAIT_S = 30.0
_NO_ENTRY = "a row of the index is no entry"


@dataclass(frozen=True)
class Entry:
    """What the catalogue knows of an artifact: its manifest without the list of files."""

    uri: str
    kind: str  # and its version, as the manifest writes it
    digest: str
    created_at: str
    num_bytes: int
    config: dict[str, Any]
    seed: int
    inputs: dict[str, InputRef]
    summary: dict[str, JsonScalar]
    damage: str | None = None  # why the manifest cannot be read; then nothing else is known but where it is

    @property
    def short_kind(self) -> str:
        """The kind without namespace and schema version."""
        return split_kind(self.kind)[0]

    @classmethod
    def of(cls, uri: str, manifest: Manifest) -> "Entry":
        """The entry of a published artifact."""
        return cls(
            uri=uri,
            kind=manifest.kind,
            digest=manifest.digest,
            created_at=manifest.created_at,
            num_bytes=manifest.num_bytes,
            config=manifest.config,
            seed=manifest.seed,
            inputs=manifest.inputs,
            summary=manifest.summary,
        )

    @classmethod
    def damaged(cls, uri: str, problem: str) -> "Entry":
        """The entry of an artifact whose manifest cannot be read."""
        return cls(uri, uri.partition("/")[0], "", "", 0, {}, 0, {}, {}, problem)


class Index:
    """Entries by prefix, in a file, or in memory where there can be none."""

    def __init__(self, path: Path | None) -> None:
        """Open or make the index at ``path``; None keeps it in memory.

        Raises:
            sqlite3.Error: the file cannot be opened, or is no such index.
            OSError: its folder cannot be made.
        """
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        # One thread at a time is let in by the catalogue.
        self._connection = sqlite3.connect(path or ":memory:", timeout=_WAIT_S, check_same_thread=False)
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def versions(self) -> dict[str, str]:
        """The version of each manifest that is known, by prefix."""
        return dict(self._connection.execute("SELECT uri, version FROM artifacts"))

    def update(self, gone: Iterable[str], read: Mapping[str, tuple[str, Entry]]) -> None:
        """Forget some prefixes, and take in what was read: version and entry by prefix; all of it or nothing."""
        with self._connection as connection:
            forgotten = [(uri,) for uri in (*gone, *read)]
            connection.executemany("DELETE FROM inputs WHERE child = ?", forgotten)
            connection.executemany("DELETE FROM artifacts WHERE uri = ?", forgotten)
            connection.executemany(
                "INSERT INTO artifacts VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (uri, version, entry.kind, entry.digest, entry.created_at, _content(entry))
                    for uri, (version, entry) in read.items()
                ),
            )
            connection.executemany(
                "INSERT INTO inputs VALUES (?, ?, ?)",
                ((uri, ref.uri, ref.digest) for uri, (_, entry) in read.items() for ref in entry.inputs.values()),
            )

    def entries(self) -> Iterator[Entry]:
        """All, by prefix."""
        return self._select("ORDER BY uri")

    def newest(self, kinds: Iterable[str]) -> Iterator[Entry]:
        """Those of some kinds, each with its version, newest first."""
        kinds = list(kinds)
        marks = ", ".join("?" * len(kinds))
        return self._select(f"WHERE kind IN ({marks}) ORDER BY created_at DESC, uri DESC", *kinds)

    def with_digest(self, digits: str) -> Iterator[Entry]:
        """Those whose digest begins with these hexadecimal digits."""
        return self._select("WHERE digest >= ? AND digest < ? ORDER BY digest", digits, f"{digits}g")

    def with_input(self, *, digest: str | None = None, uri: str | None = None) -> Iterator[Entry]:
        """Those that name an input of this digest, or under this prefix, by prefix."""
        column, value = ("digest", digest) if digest is not None else ("uri", uri)
        chosen = f"SELECT child FROM inputs WHERE {column} = ?"  # noqa: S608 -- one of two names  # nosec B608
        return self._select(f"WHERE uri IN ({chosen}) ORDER BY uri", value)

    def _select(self, where: str, *values: str | None) -> Iterator[Entry]:
        query = f"SELECT uri, kind, digest, created_at, content FROM artifacts {where}"  # noqa: S608 -- ours  # nosec B608
        rows = self._connection.execute(query, values)
        with contextlib.closing(rows):
            yield from (_entry(*row) for row in rows)


def _entry(uri: Any, kind: Any, digest: Any, created_at: Any, content: Any) -> Entry:
    """The entry in a row.

    Raises:
        ValueError: the row is not what is written here.
    """
    try:
        rest = json.loads(content)
        inputs = {role: InputRef(uri=ref[0], digest=ref[1]) for role, ref in rest.pop("inputs").items()}
        entry = Entry(uri=uri, kind=kind, digest=digest, created_at=created_at, inputs=inputs, **rest)
    except (AttributeError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(_NO_ENTRY) from error
    texts = all(isinstance(each, str) for each in (uri, kind, digest, created_at))
    numbers = isinstance(entry.num_bytes, int) and isinstance(entry.seed, int)
    if not (texts and numbers and isinstance(entry.config, dict) and isinstance(entry.summary, dict)):
        raise ValueError(_NO_ENTRY)
    return entry


def _content(entry: Entry) -> str:
    return json.dumps(
        {
            "num_bytes": entry.num_bytes,
            "config": entry.config,
            "seed": entry.seed,
            "inputs": {role: [ref.uri, ref.digest] for role, ref in entry.inputs.items()},
            "summary": entry.summary,
            "damage": entry.damage,
        },
        separators=(",", ":"),
    )
