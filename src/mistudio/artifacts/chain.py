"""Lines that hold on to the one before them, so that none is changed, put in or taken out unseen.

A line is canonical JSON: sorted keys, no white space, ASCII. Its ``hash`` is the sha256, in hex, of the hash of the
line before it (of the first line: 64 zeros), as text, followed by the canonical JSON of the line without ``hash``. So
no line can be changed, put in or taken out without all that follow being written anew; that lines at the end are gone
shows only to somebody who noted the hash of the last one.

The log of interventions keeps its lines in one file, the record of actions one line a file.
"""

import hashlib
import re
from typing import Any, NamedTuple

from mistudio.artifacts.manifest import canonical_json
from mistudio.guarded_json import RefusedJSON, parse_json

FIRST_HASH = "0" * 64
HASH = re.compile("[0-9a-f]{64}")


class Link(NamedTuple):
    """A line that was read: what it says, and its hash."""

    record: dict[str, Any]  # without hash
    hash: str

    @property
    def number(self) -> int:
        """Its place in the log."""
        return int(self.record["number"])


class BadLine(ValueError):
    """These bytes are no line of a log; the message says why."""


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
        BadLine: it is no line of a log.
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
