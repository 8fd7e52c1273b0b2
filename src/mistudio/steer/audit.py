"""The log of interventions: append-only, hash-chained JSON Lines, for several threads and processes at once.

A line is one write to a file that is opened to be appended to, under a lock of the file system, and is on the disk
before its writer goes on, unless ``fsync`` says otherwise. A file that has grown to ``max_bytes`` is put aside, and the
next one goes on with its chain.

A process that is killed, or a machine that loses power, in the middle of a write may leave a line without an end.
Whoever opens the log or writes to it next moves that to a file of its own, and says so by a line.

Prompts are never written, only their digests: HMAC-SHA256 with a salt of the log and, where one is given, a key that is
not in it. Without the key, who has the log can try whether a prompt that he thinks of was asked.

``audit_chain`` says what stands in a line, ``audit_verify`` checks a log.
"""

import datetime
import errno
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mistudio.artifacts import canonical_json
from mistudio.artifacts.chain import FIRST_HASH, BadLine, Link, read_line, sealed
from mistudio.artifacts.disk import is_full, open_lock, sync
from mistudio.errors import DamagedArtifact, StorageError, StorageFull
from mistudio.redaction import Secret
from mistudio.steer.audit_chain import BEGIN, INTERVENTION, RECOVERED, VERSION, Intervention
from mistudio.steer.audit_files import (
    cut_off,
    first_line,
    line_before,
    lock_path,
    open_log,
    rotated_path,
    rotated_paths,
    state_of,
    torn_path,
    whole_bytes,
)

Fsync = Literal["line", "never"]

_SALT_BYTES = 16
_MOST_BYTES = 64 << 20


class _End(NamedTuple):
    """The end of a log, or of one of its files."""

    last: Link
    file: int  # number of the file, from 1
    salt: str


class AuditLog:
    """A log that is written to; made where there is none.

    Args:
        path: of the file that is appended to; older ones lie beside it.
        max_bytes: size that a file has at most, unless one line is larger.
        fsync: whether each line is made to survive a loss of power before its writer goes on. A process that is killed
            loses none that was written, either way.
        key: of the digests of prompts.

    Raises:
        StorageError: the log cannot be read or written.
        DamagedArtifact: its last line is none of a log; ``mistudio audit verify`` says more.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = _MOST_BYTES, fsync: Fsync = "line", key: Secret | None = None
    ) -> None:
        self.path = path.absolute()
        self._max_bytes, self._fsync, self._key = max_bytes, fsync, key or Secret()
        self._seen: tuple[tuple[int, int, int], _End] | None = None
        with self._opened() as handle:
            self._salt = self._end_of(handle).salt

    @property
    def head(self) -> str:
        """The hash of the last line: noted elsewhere, it shows later whether lines were taken off the end."""
        with self._opened() as handle:
            return self._end_of(handle).last.hash

    def prompt_digest(self, prompt: object) -> str:
        """The digest of a prompt (a text, token ids or messages): in one log, the same for the same prompt."""
        key = self._key.reveal().encode() + bytes.fromhex(self._salt)
        return hmac.new(key, canonical_json(prompt), hashlib.sha256).hexdigest()

    def append(self, intervention: Intervention) -> str:
        """Write a line, and return its hash.

        Raises:
            StorageFull: there is no space; nothing was written.
            StorageError: the log cannot be written.
            DamagedArtifact: its last line is none of a log.
        """
        content = intervention.model_dump(mode="json")
        while True:
            with self._opened() as handle:
                end = self._end_of(handle)
                line, link = _next_line(end, INTERVENTION, content)
                if os.fstat(handle).st_size + len(line) <= self._max_bytes or end.last.record["record"] == BEGIN:
                    self._put(handle, line, end._replace(last=link))
                    return link.hash
                self._put_aside(end)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file, for one thread of one process at a time."""
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open_lock(lock_path(self.path)) as lock:  # opened by each, so that it keeps threads apart too
                fcntl.flock(lock, fcntl.LOCK_EX)
                handle = open_log(self.path)
                try:
                    yield handle
                finally:
                    os.close(handle)

    def _end_of(self, handle: int) -> _End:
        """The end of the log; a file without a line is begun, and one that is torn is mended first."""
        state = state_of(handle)
        if self._seen is not None and self._seen[0] == state:
            return self._seen[1]
        size = whole_bytes(handle, state[1])
        before = _read_end(handle, size, self.path) if size else self._end_of_rotated()
        next_number = before.last.number + (1 if size else 2)  # of the line behind that which begins the file
        torn = torn_path(self.path, next_number)
        if size < state[1]:
            cut_off(handle, size, torn)
        end = before if size else self._begin(handle, before)
        if torn.exists():  # also where a process was killed between cutting it off and saying so
            content = torn.read_bytes()
            said = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "kept_in": torn.name}
            line, link = _next_line(end, RECOVERED, said)
            end = end._replace(last=link)
            self._put(handle, line, end)
        self._seen = state_of(handle), end
        return end

    def _end_of_rotated(self) -> _End:
        """The end of the newest file that was put aside; before the first line of all where there is none."""
        paths = rotated_paths(self.path)
        if not paths:
            return _End(Link({"number": -1}, FIRST_HASH), 0, secrets.token_hex(_SALT_BYTES))
        handle = os.open(paths[-1], os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _read_end(handle, os.fstat(handle).st_size, paths[-1])
        finally:
            os.close(handle)

    def _begin(self, handle: int, before: _End) -> _End:
        content = {"file": before.file + 1, "previous": before.last.hash, "salt": before.salt, "version": VERSION}
        line, link = _next_line(before, BEGIN, content)
        end = _End(link, before.file + 1, before.salt)
        self._put(handle, line, end)
        sync(self.path.parent)
        return end

    def _put_aside(self, end: _End) -> None:
        """Give the file, which is full, its number for a name.

        Raises:
            StorageError: there is a file of that name.
        """
        aside = rotated_path(self.path, end.file)
        if aside.exists():
            message = f"{self.path} is full and cannot be put aside: there is a file {aside.name}. Move that away."
            raise StorageError(message)
        os.rename(self.path, aside)
        sync(self.path.parent)

    def _put(self, handle: int, line: bytes, end: _End) -> None:
        """Write a line at the end of the file: all of it, or nothing.

        Raises:
            OSError: it cannot be written.
        """
        size = os.fstat(handle).st_size
        self._seen = None
        try:
            written = os.write(handle, line)
        except OSError:
            os.ftruncate(handle, size)
            raise
        if written < len(line):
            os.ftruncate(handle, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        if self._fsync == "line":
            os.fsync(handle)
        self._seen = state_of(handle), end

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn a failure of the disk into an error of ours."""
        try:
            yield
        except OSError as error:
            if is_full(error):
                message = f"No space left for the audit log {self.path}: free some. What is in it stays."
                raise StorageFull(message) from error
            message = f"Cannot write the audit log {self.path}: {error.strerror}. Repair that, or choose another place."
            raise StorageError(message) from error


def _next_line(end: _End, record: str, content: Mapping[str, Any]) -> tuple[bytes, Link]:
    """A line to be written behind ``end``, and what stands in it."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return sealed(end.last.hash, {**content, "record": record, "number": end.last.number + 1, "time": now})


def _read_end(handle: int, size: int, path: Path) -> _End:
    """The end of a file of whole lines.

    Raises:
        DamagedArtifact: its first or its last line is none of a log.
    """
    try:
        last, first = read_line(line_before(handle, size)), read_line(first_line(handle))
        file, salt = int(first.record["file"]), str(first.record["salt"])
        bytes.fromhex(salt)
    except (BadLine, KeyError, ValueError) as error:
        message = (
            f"{path} cannot be gone on with as an audit log: {error}. See mistudio audit verify, keep the file, and "
            "begin another log."
        )
        raise DamagedArtifact(message) from error
    return _End(last, file, salt)
