"""The database below the history: its tables, opening it, and the lock of the one process that writes.

Write-ahead logging, so that readers see the last commit while the next is written. What was committed is there after
the process is killed; after the machine lost power, the last commits may be missing, but each is there whole or not at
all.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mistudio.errors import InputError, StorageError, StorageFull

DATABASE_NAME, LOCK_NAME = "history.sqlite", "writer.lock"
VERSION = 2  # 2: columns have an identity beside their names
_PATIENCE_S = 30.0
_LOG_BYTES = 64 << 20  # of the write-ahead log, which is cut to that when it was written back

_TABLES = """
CREATE TABLE columns (number INTEGER PRIMARY KEY, identities TEXT NOT NULL UNIQUE);
CREATE TABLE autoencoders (number INTEGER PRIMARY KEY, uri TEXT NOT NULL UNIQUE);
CREATE TABLE samples (
    number INTEGER PRIMARY KEY AUTOINCREMENT, exchange TEXT NOT NULL, sample INTEGER NOT NULL, time REAL NOT NULL,
    model TEXT NOT NULL, endpoint TEXT NOT NULL, namespace TEXT NOT NULL, tenant TEXT NOT NULL,
    num_tokens INTEGER NOT NULL, columns INTEGER NOT NULL, max BLOB NOT NULL, place BLOB NOT NULL, fired BLOB NOT NULL,
    text TEXT
);
CREATE INDEX samples_by_time ON samples (time);
CREATE INDEX samples_by_exchange ON samples (exchange);
CREATE TABLE fired (
    autoencoder INTEGER NOT NULL, feature INTEGER NOT NULL, sample INTEGER NOT NULL,
    PRIMARY KEY (autoencoder, feature, sample)
) WITHOUT ROWID;
CREATE TABLE alerts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time REAL NOT NULL, rule TEXT NOT NULL,
    kind TEXT NOT NULL, severity TEXT NOT NULL, message TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL,
    namespace TEXT NOT NULL, tenant TEXT NOT NULL, exchange TEXT NOT NULL, watched TEXT NOT NULL,
    "values" TEXT NOT NULL, is_end INTEGER NOT NULL, acknowledged REAL
);
CREATE INDEX alerts_by_time ON alerts (time);
CREATE TABLE alert_watched (
    watched TEXT NOT NULL, alert INTEGER NOT NULL REFERENCES alerts (number) ON DELETE CASCADE,
    PRIMARY KEY (watched, alert)
) WITHOUT ROWID;
CREATE INDEX alert_watched_by_alert ON alert_watched (alert);
CREATE TABLE states (name TEXT PRIMARY KEY, whole BLOB NOT NULL);
CREATE TABLE deltas (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, content BLOB NOT NULL);
CREATE INDEX deltas_by_name ON deltas (name);
CREATE TABLE dropped (what TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


def take_lock(folder: Path) -> BinaryIO:
    """The lock of the process that writes; the kernel drops it with the file, or with the process.

    Raises:
        InputError: another process holds it.
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / LOCK_NAME).open("a+b")
    except OSError as error:
        message = f"The history cannot be kept in {folder}: {error.strerror or error}. Give another folder."
        raise StorageError(message) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = "".join(each for each in file.read(20).decode(errors="replace") if each.isdigit())
        file.close()
        message = (
            f"Process {holder or '(unknown)'} writes the history in {folder}: only one may. End it, or give another "
            "folder."
        )
        raise InputError(message) from error
    file.truncate(0)
    file.write(str(os.getpid()).encode())
    file.flush()
    return file


def open_to_write(folder: Path) -> sqlite3.Connection:
    """The database, made where there is none.

    Raises:
        InputError: it is of another version.
        StorageError: it cannot be written, or is no database.
    """
    with telling_why(folder):
        database = _opened(folder)
        try:
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                _make(database)
            elif version != VERSION:
                raise InputError(_other_version(folder, version))
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        except BaseException:
            database.close()
            raise
    return database


def open_to_read(folder: Path) -> sqlite3.Connection:
    """The database, to be read alone.

    Raises:
        InputError: there is none, or it is of another version.
        StorageError: it cannot be read.
    """
    if not (folder / DATABASE_NAME).is_file():
        message = f"{folder} holds no history: {DATABASE_NAME} is not there."
        raise InputError(message)
    with telling_why(folder):
        database = _opened(folder)
        database.execute("PRAGMA query_only = ON")
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version != VERSION:
        database.close()
        raise InputError(_other_version(folder, version))
    return database


@contextmanager
def telling_why(folder: Path) -> Iterator[None]:
    """Errors of the database as errors that say what to do.

    Raises:
        StorageFull: no space is left.
        StorageError: it cannot be read or written.
    """
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            message = f"There is no space left for the history in {folder}: what was committed before stays. Make room."
            raise StorageFull(message) from error
        message = f"The history in {folder} cannot be used: {error}. Give another folder, or remove {DATABASE_NAME}*."
        raise StorageError(message) from error


def used_bytes(database: sqlite3.Connection) -> int:
    """Bytes of pages that hold something."""
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _opened(folder: Path) -> sqlite3.Connection:
    path = folder / DATABASE_NAME
    return sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)


def _make(database: sqlite3.Connection) -> None:
    """Tables, and the version last: killed before it, all is made anew."""
    database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {VERSION};COMMIT;")


def _other_version(folder: Path, version: int) -> str:
    return (
        f"The history in {folder} is of version {version}, and this library reads version {VERSION}: give another "
        "folder, or a library of that version."
    )
