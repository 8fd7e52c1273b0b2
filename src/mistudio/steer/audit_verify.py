"""Whether an audit log is what was written: its chain from the first line to the last, over all of its files.

A log may be written to meanwhile: what is checked is what was there in the beginning.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from mistudio.artifacts.chain import FIRST_HASH, HASH, BadLine, Link, chained, read_line
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.plain_text import shortened
from mistudio.steer.audit_chain import BEGIN, RECOVERED
from mistudio.steer.audit_files import lock_path, rotated_paths

State = Literal["intact", "broken", "torn", "cut", "headless"]

_MOST_LINE_BYTES = 1 << 28


class Verdict(NamedTuple):
    """What was found.

    Attributes:
        state: intact; broken: a line is not what was written; torn: the last line has no end, as a kill leaves it and
            the next writer mends it; cut: the line that was asked for is not there, so that lines at the end are gone;
            headless: earlier files are not there, and all that is there is intact.
        lines: that were checked and are as they were written.
        files: that were read.
        head: hash of the last of these lines.
        recovered: lines that say that one written in part was cut off.
        since: lines behind that of the hash that was asked for.
        problem: what is wrong, in words; empty where nothing is.
    """

    state: State
    lines: int
    files: int
    head: str
    recovered: int
    since: int | None
    problem: str


class _Chain:
    """What is known of the lines so far."""

    def __init__(self, head: str | None) -> None:
        self.wanted: str | None = head
        self.since: int | None = None
        self.lines = self.recovered = self.files = 0
        self.last: Link | None = None
        self.first_file = 1

    def take(self, link: Link, *, begins_file: bool) -> None:
        """Hold a line against the one before it.

        Raises:
            BadLine: it does not follow.
        """
        record = link.record
        previous = self._previous(link) if self.last is None else self.last.hash
        if (record["record"] == BEGIN) is not begins_file:
            message = (
                "a file begins in the middle" if record["record"] == BEGIN else "the file does not begin as files do"
            )
            raise BadLine(message)
        if chained(previous, record) != link.hash:
            message = "it does not follow from the line before it: one of the two was changed, or lines are missing"
            raise BadLine(message)
        self.last, self.lines = link, self.lines + 1
        self.recovered += record["record"] == RECOVERED
        self.since = None if self.since is None else self.since + 1
        if link.hash == self.wanted:
            self.since = 0

    def _previous(self, link: Link) -> str:
        """What the first line that is there has to follow: nothing, or what it says of files that are not there."""
        file, previous = link.record.get("file"), link.record.get("previous")
        if not isinstance(file, int) or not isinstance(previous, str) or (file == 1 and previous != FIRST_HASH):
            message = "the file does not begin as files do"
            raise BadLine(message)
        self.first_file = file
        return previous

    def verdict(self, state: State, problem: str) -> Verdict:
        """The verdict, with what is known so far."""
        head = FIRST_HASH if self.last is None else self.last.hash
        return Verdict(state, self.lines, self.files, head, self.recovered, self.since, problem)


def verify_log(path: Path, head: str | None = None) -> Verdict:
    """Check a log.

    Args:
        path: of the file that is appended to, or of one that was put aside; older ones are read with the first.
        head: the hash of a line that has to be there, for example of the one that was the last when it was noted.

    Raises:
        NotFound: there is no such file.
        ConfigError: ``head`` is no hash.
        InputError: it is no audit log, or cannot be read.
    """
    if head is not None and not HASH.fullmatch(head):
        message = f"head {shortened(head)} is no hash: give its 64 hexadecimal digits."
        raise ConfigError(message)
    if not path.is_file() and not (path.parent.is_dir() and rotated_paths(path)):
        message = f"There is no audit log {shortened(str(path))}."
        raise NotFound(message)
    try:
        with _snapshot(path) as files:
            return _verified(files, head)
    except OSError as error:
        message = f"Cannot read the audit log {shortened(str(path))}: {error.strerror}."
        raise InputError(message) from error


def _verified(files: "list[_File]", head: str | None) -> Verdict:
    chain = _Chain(head)
    for file in files:
        chain.files += 1
        for number, line in enumerate(_lines(file), start=1):
            where = f"{file.path.name}, line {number}"
            try:
                chain.take(_whole(line), begins_file=number == 1)
            except BadLine as error:
                if chain.last is None:
                    message = f"{where}: this is no audit log: {error}."
                    raise InputError(message) from error
                is_torn = not line.endswith(b"\n") and file is files[-1]
                return chain.verdict("torn" if is_torn else "broken", f"{where}: {error}.")
    if chain.last is None:
        message = f"{files[-1].path.name} holds no line: this is no audit log, or nothing was ever written to it."
        raise InputError(message)
    if head is not None and chain.since is None:
        return chain.verdict("cut", f"No line has the hash {shortened(head)}: lines at the end are gone.")
    if chain.first_file > 1:
        return chain.verdict("headless", f"Files 1 to {chain.first_file - 1} are not there: they were not checked.")
    return chain.verdict("intact", "")


def _whole(line: bytes) -> Link:
    if not line.endswith(b"\n"):
        message = "the line has no end"
        raise BadLine(message)
    return read_line(line[:-1])


class _File(NamedTuple):
    """A file as it is at one moment."""

    path: Path
    file: BinaryIO
    size: int


def _lines(file: _File) -> Iterator[bytes]:
    """The lines of a file; one that is longer than any of a log comes in pieces."""
    left = file.size
    while left > 0:
        line = file.file.readline(min(left, _MOST_LINE_BYTES))
        if not line:
            return
        left -= len(line)
        yield line


@contextmanager
def _snapshot(path: Path) -> Iterator[list[_File]]:
    """The files of a log at one moment, opened."""
    with ExitStack() as stack:
        found = []
        with _writers_waiting(path):
            for each in (*rotated_paths(path), *([path] if path.exists() else [])):
                file: BinaryIO = stack.enter_context(each.open("rb"))
                found.append(_File(each, file, os.fstat(file.fileno()).st_size))
        yield found


@contextmanager
def _writers_waiting(path: Path) -> Iterator[None]:
    """Keep writers out for a moment, where there can be any: a copy of a log has no lock."""
    with ExitStack() as stack:
        with suppress(OSError):
            lock = os.open(lock_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
