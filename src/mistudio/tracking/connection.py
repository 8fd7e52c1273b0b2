"""Asking MLflow without waiting for it without end."""

import logging
import time
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from mistudio.errors import StorageError
from mistudio.progress import say
from mistudio.redaction import redact
from mistudio.tracking.where import URI_ENV

Answer = TypeVar("Answer")

# How long a run waits for MLflow: making a database takes seconds, on a busy machine many.
PATIENCE_S = 90.0
_SHARE_OF_WORK = 0.1  # and so much of the time that the work takes
_REASON_CHARS = 200


class Connection:
    """What runs that belong together ask of MLflow: each call on a thread of its own, none waited for without end.

    After the first that fails nothing is asked any more.
    """

    def __init__(self) -> None:
        self.failure = ""
        self._begun_s, self._waited_s = time.monotonic(), 0.0

    def ask(self, call: Callable[[], Answer], most_s: float | None = None) -> Answer | None:
        """The answer; None where there is none, at the latest after ``most_s`` seconds (None: the usual patience)."""
        if self.failure:
            return None
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def do() -> None:
            try:
                answers.append(call())
            except BaseException as error:  # of MLflow, SQLAlchemy, the file system, ...
                errors.append(error)

        begun = time.monotonic()
        patience = PATIENCE_S + _SHARE_OF_WORK * (begun - self._begun_s) - self._waited_s
        thread = Thread(target=do, name="mlflow", daemon=True)
        thread.start()
        try:
            thread.join(max(min(patience, PATIENCE_S if most_s is None else most_s), 0.0))
        finally:
            self._waited_s += time.monotonic() - begun
        if errors:
            self._give_up(_reason(errors[0]))
        elif thread.is_alive():
            self._give_up(f"no answer in {self._waited_s:.0f} s")
        return answers[0] if answers else None

    def refuse_failed(self) -> None:
        """Refuse to go on where MLflow could not be used.

        Raises:
            StorageError: it could not.
        """
        if self.failure:
            message = f"MLflow cannot be used ({self.failure}): mend that, or name another as {URI_ENV}."
            raise StorageError(message)

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        text = f"MLflow cannot be used ({reason}). The work goes on; log it later with: mistudio mlflow sync"
        say(text, logging.WARNING)


def _reason(error: BaseException) -> str:
    """The first line of what an error says, or of what lies behind it."""
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_REASON_CHARS]
