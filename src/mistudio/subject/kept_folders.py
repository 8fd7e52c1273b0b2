"""Folders that a machine keeps because they take long to make: whole or not at all, and checked before they are used.

A folder lists the sha256 of each of its files. Beside it lies a lock, shared by those who read the folder and held
alone by who makes or removes it. So two processes do not make one folder twice, none is removed while it is read, and
what a killed process left half made is known by the lock that nobody holds.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mistudio.artifacts.disk import open_lock, sync
from mistudio.progress import say
from mistudio.subject.source import hash_files

_DONE = "complete.json"
_ATTEMPTS = 3  # between making a folder and reading it, another process may remove it
_NOT_WRITTEN = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def kept_folder(folder: Path, build: Callable[[Path], None]) -> Iterator[Path]:
    """A folder as it was made, which stays for as long as the context lasts; made where it is not there or damaged.

    Its files are hashed once in a process, for as long as they stay the same.

    Args:
        folder: where it is kept.
        build: fills an empty folder.

    Raises:
        OSError: it cannot be written or locked.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(_ATTEMPTS):
        with _locked(folder, fcntl.LOCK_SH):
            if _problem(folder) is None:
                with contextlib.suppress(OSError):
                    os.utime(folder)  # who makes room goes by it
                yield folder
                return
        with _locked(folder, fcntl.LOCK_EX):
            _make(folder, build)
    message = f"it is not whole after it was written ({_problem(folder)})"
    raise OSError(errno.EIO, message, str(folder))


def make_room(root: Path, pattern: str, most: int) -> None:
    """Remove what killed processes left half made, and the folders used longest ago; none that is in use.

    Args:
        root: where each folder lies in a folder of its own.
        pattern: of the names of the folders that are counted.
        most: how many of them are kept.
    """
    for staged in root.glob("*/.*-*"):
        _remove_unused(staged, staged.with_name(staged.name[1:].rpartition("-")[0]))
    for folder in sorted(root.glob(f"*/{pattern}"), key=_last_used, reverse=True)[most:]:
        _remove_unused(folder, folder)


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    """Make a folder, whose lock is held, unless another process did meanwhile."""
    problem = _problem(folder)
    if problem is None:
        return
    if folder.exists():
        say(f"The copy in {folder} is damaged ({problem}), so it is made again.", logging.WARNING)
        shutil.rmtree(folder)
    for left in folder.parent.glob(f".{folder.name}-*"):  # of a killed process: no other holds the lock
        shutil.rmtree(left, ignore_errors=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        build(staged)
        _finish(staged)
        staged.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _finish(staged: Path) -> None:
    """List the files of a folder, and make it survive a power cut."""
    (staged / _DONE).write_text(json.dumps(_hashes(staged)))
    for path in staged.rglob("*"):
        sync(path)
    sync(staged)


def _problem(folder: Path) -> str | None:
    """What keeps a folder from being what was made; None if nothing does."""
    try:
        written = json.loads((folder / _DONE).read_text())
        found = _hashes(folder)
    except (OSError, ValueError) as error:
        return f"{_DONE} or another file cannot be read: {error}"
    if not isinstance(written, dict) or not written:
        return f"{_DONE} lists no files"
    differing = sorted(name for name in {*written, *found} if written.get(name) != found.get(name))
    return f"{differing[0]} is not as it was written" if differing else None


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 by the path in the folder, of all files but the list of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / _DONE)
    return {path.relative_to(folder).as_posix(): sha256 for path, sha256 in hash_files(paths).items()}


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0


def _remove_unused(folder: Path, locked_as: Path) -> None:
    """Remove a folder, unless another process uses it or removes it as well."""
    with contextlib.suppress(OSError):
        if folder.is_dir():
            with _locked(locked_as, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the lock of a folder; what can only be read is read without one.

    Raises:
        BlockingIOError: another has it, and ``how`` does not wait.
        OSError: the lock cannot be made, or the file system has none.
    """
    try:
        handle = open_lock(folder.with_name(f".{folder.name}.lock"))
    except OSError as error:
        if how != fcntl.LOCK_SH or error.errno not in _NOT_WRITTEN:
            raise
        yield
        return
    with handle:
        _wait(handle.fileno(), how, folder)
        try:
            yield
        finally:  # closing alone would leave it to a process that was forked meanwhile
            fcntl.flock(handle, fcntl.LOCK_UN)


def _wait(descriptor: int, how: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        if how & fcntl.LOCK_NB:
            raise
        say(f"Wait for another process, which makes or uses the copy in {folder}.")
        fcntl.flock(descriptor, how)
