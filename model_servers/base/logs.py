"""Logs: a line of JSON each, without anything that a client wrote.

Of an exception its kind and the places in the code are logged, not its message: that may repeat a prompt.
"""

import json
import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from mistudio.plain_text import without_surrogates
from mistudio.redaction import redact

REQUEST_ID: ContextVar[str] = ContextVar("request_id")  # of the request that is answered
REQUESTS = logging.getLogger("model_servers.requests")
_FIELDS = "fields"  # of a record: what belongs into its line beside the message


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Log lines of JSON from now on, to standard error unless told otherwise. For programs, not for libraries."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Uvicorn's tells paths with what stands behind them, and at "debug" what is sent by WebSockets, keys included.
    for name in ("httpx", "httpcore", "asyncio", "urllib3", "websockets", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def with_fields(**fields: object) -> dict[str, dict[str, object]]:
    """The ``extra`` of a log call: fields of its line."""
    return {_FIELDS: fields}


class JSONFormatter(logging.Formatter):
    """Records as lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        content: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(without_surrogates(record.getMessage())),
        }
        request_id = REQUEST_ID.get(None)
        content |= {} if request_id is None else {"request_id": request_id}
        content |= getattr(record, _FIELDS, {})
        if record.exc_info and record.exc_info[0] is not None:
            content["exception"] = record.exc_info[0].__name__
            content["frames"] = _frames(record.exc_info[2])
        return json.dumps(content, default=str)


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
