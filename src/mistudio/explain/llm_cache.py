"""Answers of a language model, remembered: a run that goes on after a failure asks nothing twice.

One database, in which each answer stands under the sha256 of model, request and settings. Several processes may read
and write it at the same time. What was put stays, whatever happens to the process.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistudio.errors import StorageError
from mistudio.explain.judge import AnswerToken, Reply, Usage

DATABASE_NAME = "answers.sqlite"
_PATIENCE_S = 60.0  # longest wait for another process that writes
_SET_UP = (
    # Readers do not wait for who writes, and a commit waits for no disk: only a computer that stops can undo the last.
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "CREATE TABLE IF NOT EXISTS answers (recipe TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID",
)


class AnswerCache:
    """The answers in ``folder``; without one, nothing is remembered. To be used by one thread at a time."""

    def __init__(self, folder: Path | None) -> None:
        """Open the answers.

        Raises:
            StorageError: they cannot be opened.
        """
        self._path = folder / DATABASE_NAME if folder else None
        self._database: sqlite3.Connection | None = None
        if self._path is not None:
            with self._told_of("opened"):
                self._database = _opened(self._path)

    def close(self) -> None:
        """Let go of the answers."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def get(self, recipe: str) -> Reply | None:
        """The answer of that recipe, if there is one.

        Raises:
            StorageError: the answers cannot be read.
        """
        if self._database is None:
            return None
        with self._told_of("read"):
            row = self._database.execute("SELECT reply FROM answers WHERE recipe = ?", (recipe,)).fetchone()
        return _reply_from(json.loads(row[0])) if row else None

    def put(self, recipe: str, reply: Reply) -> None:
        """Remember an answer.

        Raises:
            StorageError: it cannot be written.
        """
        if self._database is not None:
            text = json.dumps(_plain(reply), ensure_ascii=False)
            with self._told_of("written"):
                self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (recipe, text))

    @contextmanager
    def _told_of(self, done: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            message = (
                f"The remembered answers in {self._path} cannot be {done}: {error}. If the file is damaged, move it "
                "away; its answers are then asked for again."
            )
            raise StorageError(message) from error


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        for statement in _SET_UP:
            database.execute(statement)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _plain(reply: Reply) -> dict[str, Any]:
    """What of an answer differs from an empty one."""
    return {name: value for name, value in reply._asdict().items() if value != Reply._field_defaults[name]}


def _reply_from(plain: dict[str, Any]) -> Reply:
    tokens, vectors = plain.get("tokens"), plain.get("vectors")
    named = {
        **plain,
        "tokens": tuple(AnswerToken(text, tuple(map(tuple, logprobs))) for text, logprobs in tokens)
        if tokens
        else None,
        "vectors": tuple(map(tuple, vectors)) if vectors else None,
        "usage": Usage(*plain.get("usage", ())),
    }
    return Reply(**named)
