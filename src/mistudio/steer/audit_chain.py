"""What a line of an audit log is, and how each holds on to the one before it.

A line is canonical JSON: sorted keys, no white space, ASCII. Its ``hash`` is the sha256, in hex, of the hash of the
line before it (of the first line: 64 zeros), as text, followed by the canonical JSON of the line without ``hash``. So
no line can be changed, put in or taken out without all that follow being written anew; that lines at the end are gone
shows only to somebody who noted the hash of the last one.

Lines are numbered from 0. The first line of each file says that it begins; the others are interventions, or say that a
line that was only written in part was cut off.
"""

import hashlib
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field

from mistudio.artifacts import canonical_json
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.instrument.edits import Edits
from mistudio.settings import Settings

VERSION = 1
BEGIN, INTERVENTION, RECOVERED = "begin", "intervention", "recovered"
FIRST_HASH = "0" * 64

HASH = re.compile("[0-9a-f]{64}")

Outcome = Literal["admitted", "stop", "length", "content_filter", "cancelled", "failed", "refused"]


class EditNote(Settings):
    """What an edit does, without where and when."""

    op: str
    autoencoder: str | None = None
    features: tuple[int, ...] = ()
    direction: str | None = None
    strength: float | None = Field(None, description="or value, or factor; in the unit")
    unit: str | None = None


class Intervention(Settings):
    """One request that changes what a model does, and what came of it; never its text."""

    request: str = Field(min_length=1, max_length=200, description="id of the request")
    key: str | None = Field(None, max_length=200, description="name of the key that it came with; None: without one")
    model: str = Field(max_length=500, description="name of the subject")
    preset: str | None = Field(None, max_length=200, description="name of the preset that it named")
    edits: tuple[EditNote, ...] = Field((), description="what it changes, the preset's edits included")
    stop_when: int = Field(0, ge=0, description="features that would end the answer")
    steering: str = Field(max_length=200, description="digest of what it changes")
    prompt: str = Field(max_length=200, description="keyed digest of the prompt")
    outcome: Outcome = Field(description="admitted: it begins; else what came of it")
    detail: str | None = Field(None, max_length=500, description="for example what ended it")


class Link(NamedTuple):
    """A line that was read: what it says, and its hash."""

    record: dict[str, Any]  # without hash
    hash: str

    @property
    def number(self) -> int:
        """Its place in the log."""
        return int(self.record["number"])


class BadLine(ValueError):
    """These bytes are no line of an audit log; the message says why."""


def notes_of(edits: Edits) -> tuple[EditNote, ...]:
    """What a request changes, as the log has it."""
    return tuple(
        EditNote(
            op=edit.op,
            autoencoder=edit.autoencoder,
            features=edit.latents,
            direction=getattr(edit, "direction", None),
            strength=next(
                (getattr(edit, name) for name in ("strength", "value", "factor") if hasattr(edit, name)), None
            ),
            unit=getattr(edit, "unit", None),
        )
        for edit in edits.edits
    )


def chained(previous: str, record: dict[str, Any]) -> str:
    """The hash of a line that follows one of hash ``previous``."""
    return hashlib.sha256(previous.encode() + canonical_json(record)).hexdigest()


def sealed(previous: str, record: dict[str, Any]) -> tuple[bytes, Link]:
    """The line of a record, with its end, and what stands in it."""
    link = Link(record, chained(previous, record))
    return canonical_json({**record, "hash": link.hash}) + b"\n", link


def read_line(line: bytes) -> Link:
    """What stands in a line, without its end.

    Raises:
        BadLine: it is no line of an audit log.
    """
    try:
        record = parse_json(line.decode("ascii"))
    except (RefusedJSON, UnicodeDecodeError) as error:
        raise BadLine(str(error)) from error
    if not isinstance(record, dict) or not HASH.fullmatch(str(record.get("hash"))):
        message = "it is no object with a hash"
        raise BadLine(message)
    if not isinstance(record.get("number"), int) or not isinstance(record.get("record"), str):
        message = "it has no number, or does not say what it records"
        raise BadLine(message)
    if _canonical(record) != line:
        message = "it is not written as the log writes"
        raise BadLine(message)
    return Link(record, str(record.pop("hash")))


def _canonical(record: dict[str, Any]) -> bytes:
    try:
        return canonical_json(record)
    except ValueError as error:  # NaN, which no line of ours has
        raise BadLine(str(error)) from error
