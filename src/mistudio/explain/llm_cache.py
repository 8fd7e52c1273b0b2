"""Answers of a language model, remembered: a run that goes on after a failure asks nothing twice.

One database, in which each answer stands under the sha256 of model, request and settings. Several processes may read
and write it at the same time. What was put stays, whatever happens to the process. Each answer is checked when it is
found: one that cannot be used is dropped, and asked for again.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistudio.errors import StorageError
from mistudio.explain.judge import AnswerToken, Reply, Usage

logger = logging.getLogger(__name__)

DATABASE_NAME = "answers.sqlite"
_MOST_BYTES = 1 << 27  # of one answer as it is kept
_PATIENCE_S = 60.0  # longest wait for another process that writes
_SET_UP = (
    # Readers do not wait for who writes, and a commit waits for no disk: only a computer that stops can undo the last.
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA secure_delete = ON",  # what is dropped may hold what nobody should read
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
        self.dropped = 0  # answers found that could not be used
        if self._path is not None:
            with self._told_of("opened"):
                self._database = _opened(self._path)

    def close(self) -> None:
        """Let go of the answers."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def get(self, recipe: str, check: Callable[[Reply], Reply] = lambda reply: reply) -> Reply | None:
        """The answer of that recipe, if there is one that can be used.

        Args:
            recipe: what it was remembered by.
            check: gives the answer as it may be used, or raises ValueError; what it changes is remembered so.

        Raises:
            StorageError: the answers cannot be read.
        """
        if self._database is None:
            return None
        with self._told_of("read"):
            row = self._database.execute(
                "SELECT CASE WHEN length(reply) <= ? THEN reply END FROM answers WHERE recipe = ?",
                (_MOST_BYTES, recipe),
            ).fetchone()
        if row is None:
            return None
        try:
            kept = _reply_from(json.loads(row[0]))
            reply = check(kept)
        # Whatever stands there: it was written by an older version, or by somebody else.
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            logger.warning("a remembered answer cannot be used (%s); it is asked for again", type(error).__name__)
            self.dropped += 1
            self.drop(recipe)
            return None
        if reply != kept:
            self.put(recipe, reply)
        return reply

    def put(self, recipe: str, reply: Reply) -> None:
        """Remember an answer.

        Raises:
            StorageError: it cannot be written.
        """
        if self._database is not None:
            text = json.dumps(_plain(reply), ensure_ascii=False, allow_nan=False)
            with self._told_of("written"):
                self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (recipe, text))

    def drop(self, recipe: str) -> None:
        """Remember the answer no longer.

        Raises:
            StorageError: it cannot be written.
        """
        if self._database is not None:
            with self._told_of("written"):
                self._database.execute("DELETE FROM answers WHERE recipe = ?", (recipe,))

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
    database.text_factory = bytes  # a text that is not UTF-8 makes its own answer unusable, not the database
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
