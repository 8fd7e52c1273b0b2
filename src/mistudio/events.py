"""What a run tells while it goes on: typed events, one JSON line each, appended to one file by all its processes.

Where ``MISTUDIO_EVENTS`` names a file, the steps and their bars report there; where it does not, nothing is written.
Whoever started the run reads them: the command line draws its bars from them, a web page its curves.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from mistudio.redaction import redact

logger = logging.getLogger(__name__)

EVENTS_ENV = "MISTUDIO_EVENTS"

Scalar = str | int | float | bool | None
# Name of the step that this thread works for, and what tells it from others of its name.
_working_on: ContextVar[tuple[str, str]] = ContextVar("working_on", default=("", ""))


class _Event(BaseModel):
    """What every event has."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings", defer_build=True)

    version: Literal[1] = 1
    time: float = Field(default_factory=time.time, description="seconds since 1970")
    pid: int = Field(default_factory=os.getpid, description="process that reports")
    step: str = Field(default_factory=lambda: _working_on.get()[0], description="name of the step")
    about: str = Field(default_factory=lambda: _working_on.get()[1], description="which of the steps of that name")


class Started(_Event):
    """A step begins."""

    event: Literal["started"] = "started"


class Progress(_Event):
    """How far a piece of work is."""

    event: Literal["progress"] = "progress"
    what: str
    done: float = Field(description="in units")
    total: float | None = Field(description="in units; None where it is not known")
    unit: str
    note: str = Field(description="the figures of the moment, as a person reads them")
    finished: bool = False


class Metrics(_Event):
    """Figures at one moment of a step, such as those of a training step."""

    event: Literal["metrics"] = "metrics"
    run: str = Field(description="what is measured: the step's name, or one of the autoencoders that it trains")
    number: int = Field(description="where on the curve: the training step; 0 where there is no curve")
    values: dict[str, float]


class Message(_Event):
    """A line for people."""

    event: Literal["message"] = "message"
    text: str

    _hide_secrets = field_validator("text")(redact)


class Finished(_Event):
    """A step ended well, and this is what it published."""

    event: Literal["finished"] = "finished"
    uri: str
    digest: str
    found: bool = Field(description="whether it was published before")
    seconds: float
    summary: dict[str, Scalar]


class Failed(_Event):
    """A step ended with an error."""

    event: Literal["failed"] = "failed"
    message: str
    exit_code: int = Field(description="1 for errors that were not meant")

    _hide_secrets = field_validator("message")(redact)


Event = Started | Progress | Metrics | Message | Finished | Failed


def emit(event: Event) -> None:
    """Append an event for whoever follows the run, if anybody does."""
    path = events_path()
    if path is not None:
        try:
            append(path, event)
        except OSError as error:
            _say_once(f"{EVENTS_ENV} names {path}, which cannot be written: {error.strerror}. Nothing is told there.")


@cache
def _say_once(text: str) -> None:
    logger.warning("%s", text)


def events_path() -> Path | None:
    """The file that events go to, or None."""
    path = os.environ.get(EVENTS_ENV)
    return Path(path) if path else None


def append(path: Path, event: Event) -> None:
    """Append one line; lines of several processes never mix, for each is one write."""
    line = event.model_dump_json().encode() + b"\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


@contextmanager
def working_on(step: str, about: str = "") -> Iterator[None]:
    """Name the step that events of this thread come from, unless they say otherwise."""
    token = _working_on.set((step, about))
    try:
        yield
    finally:
        _working_on.reset(token)


def emit_metrics(run: str, metrics: Mapping[str, object], number: int = 0) -> None:
    """Emit the numbers among ``metrics``."""
    if events_path() is not None:
        values = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        emit(Metrics(run=run, number=number, values=values))


@cache
def _any_event() -> TypeAdapter[Event]:
    return TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_event(line: bytes, origin: object) -> Event | None:
    """An event; None, with a warning, for what is none of this version."""
    try:
        return _any_event().validate_json(line)
    except ValidationError:
        logger.warning("%s has a line that is no event of this version: %.80r", origin, line)
        return None


class EventReader:
    """Reads a file of events that may still grow; each is given once.

    Args:
        path: The file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read(self) -> list[Event]:
        """What was appended since. A line that is no event of this version is left out, with a warning."""
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._offset)
                lines = handle.readlines()
        except FileNotFoundError:
            return []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # still being written
        self._offset += sum(map(len, lines))
        return [event for line in lines if (event := parse_event(line, self._path))]
