"""Whether a corpus is still what its digest says after it was read.

A digest is taken before the documents are read, and files can change in between. So files are looked at again: by
size, times and place on the disk, which every change of their content moves, and by their hash where these have moved,
or where the file had changed so shortly before that the clock of the disk could not tell one change from the next.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from mistudio.artifacts import hash_file
from mistudio.corpus.lines import unreadable
from mistudio.errors import CorpusError

_SETTLED_S = 2.0  # the coarsest clock of a file system in use


@runtime_checkable
class ChangingSource(Protocol):
    """A source of documents that could change while it is read."""

    def check_unchanged(self, *, to_the_end: bool) -> None:
        """Refuse a source whose documents are no longer those of its digest.

        Args:
            to_the_end: everything was read that will be. Before, a look that costs next to nothing is enough.

        Raises:
            CorpusError: it has changed.
            DamagedArtifact: it lies in the store, and has changed.
        """
        ...


class HashedFiles:
    """Files with names, each hashed once; knows whether they still are what they were.

    Args:
        files: name in messages, and path.

    Raises:
        CorpusError: a file cannot be read.
    """

    def __init__(self, files: tuple[tuple[str, Path], ...]) -> None:
        self._files = {name: _hashed(name, path) for name, path in files}

    @property
    def hashes(self) -> tuple[tuple[str, str], ...]:
        """Name and sha256 of each, in their order."""
        return tuple((name, file.sha256) for name, file in self._files.items())

    def check(self, *, to_the_end: bool) -> None:
        """Refuse files that have changed; see :meth:`ChangingSource.check_unchanged`.

        Raises:
            CorpusError: one has.
        """
        for name, file in self._files.items():
            if _state(name, file.path) == file.state and (file.is_settled or not to_the_end):
                continue
            now = _hashed(name, file.path)
            if now.sha256 != file.sha256:
                raise CorpusError(changed(name))
            self._files[name] = now


def changed(name: str) -> str:
    """The message for a file or folder that changed while it was read."""
    return f"{name} has changed while it was read. Run the same command again when nothing writes to it any more."


class _File(NamedTuple):
    path: Path
    sha256: str
    state: tuple[int, ...]
    is_settled: bool  # it was left alone for long enough before it was hashed


def _hashed(name: str, path: Path) -> _File:
    state = _state(name, path)
    is_settled = time.time_ns() - max(state[-2:]) > _SETTLED_S * 1e9
    try:
        return _File(path, hash_file(path), state, is_settled)
    except OSError as error:
        raise CorpusError(unreadable(name, error)) from error


def _state(name: str, path: Path) -> tuple[int, ...]:
    """What moves when the content changes."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise CorpusError(unreadable(name, error)) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
