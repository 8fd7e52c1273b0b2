"""Answers of a language model, remembered: a run that goes on after a failure asks nothing twice.

A folder of JSON-lines files, one for each time it was opened, each line an answer under the sha256 of model,
request and settings. Lines are only ever added; a line that was cut off by a crash is passed over, and its question
asked again. What is held in memory is where each answer stands, not the answers.
"""

import json
import logging
import threading
import uuid
from pathlib import Path
from typing import Any

from mistudio.errors import StorageError
from mistudio.explain.judge import AnswerToken, Reply, Usage

logger = logging.getLogger(__name__)

_SUFFIX = ".answers.jsonl"


class AnswerCache:
    """The answers in ``folder``; without one, nothing is remembered."""

    def __init__(self, folder: Path | None) -> None:
        """Read where the answers stand.

        Raises:
            StorageError: the folder cannot be made or read.
        """
        self._places: dict[str, tuple[Path, int]] = {}
        self._path = folder / f"{uuid.uuid4().hex}{_SUFFIX}" if folder else None
        self._lock = threading.Lock()
        if folder:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for path in sorted(folder.glob(f"*{_SUFFIX}")):
                    self._index(path)
            except OSError as error:
                message = f"The answers in {folder} cannot be read: {error}"
                raise StorageError(message) from error

    def __len__(self) -> int:
        return len(self._places)

    def get(self, recipe: str) -> Reply | None:
        """The answer of that recipe, if there is one."""
        place = self._places.get(recipe)
        if place is None:
            return None
        path, offset = place
        with path.open("rb") as handle:
            handle.seek(offset)
            return _reply_from(json.loads(handle.readline())["reply"])

    def put(self, recipe: str, reply: Reply) -> None:
        """Remember an answer.

        Raises:
            StorageError: it cannot be written.
        """
        if self._path is None:
            return
        line = json.dumps({"recipe": recipe, "reply": _plain(reply)}, ensure_ascii=False).encode() + b"\n"
        try:
            with self._lock, self._path.open("ab") as handle:
                offset = handle.tell()
                handle.write(line)
                self._places[recipe] = (self._path, offset)
        except OSError as error:
            message = f"An answer cannot be written to {self._path}: {error}"
            raise StorageError(message) from error

    def _index(self, path: Path) -> None:
        offset = 0
        with path.open("rb") as handle:
            for line in handle:
                try:
                    self._places[str(json.loads(line)["recipe"])] = (path, offset)
                except (ValueError, KeyError, TypeError):
                    logger.info("%s: a line at byte %d was cut off and is passed over", path.name, offset)
                offset += len(line)


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
