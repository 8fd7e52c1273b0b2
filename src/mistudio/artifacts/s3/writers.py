"""A process as a writer: a name, a folder for what it stages, and a lock by which others see that it lives.

The lock is the kernel's, which drops it with the process. So whoever shares this machine's folder sees at once that a
writer is gone: its half written files can go, and its leases are free. Elsewhere leases have to expire.
"""

import fcntl
import itertools
import os
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mistudio.artifacts.disk import open_lock

_FORGOTTEN_S = 86_400.0  # by then no lease names a writer that is gone
_LOCK = ".lock"


class Writer:
    """This process in the folder of a machine's writers; made when its name or folder is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name, self._process, self._numbers = "", 0, itertools.count()
        self._entering = threading.Lock()

    @property
    def name(self) -> str:
        """The name of this process among all writers of all machines."""
        with self._entering:
            self._enter()
            return self._name

    def path(self, basename: str) -> Path:
        """A path for a new file, which nobody else writes to."""
        return self._folder / self.name / f"{next(self._numbers)}@{basename}"

    def _enter(self) -> None:
        """Take a name and its lock; a child process that was forked is another writer."""
        if self._process == os.getpid():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        sweep(self._folder)
        while True:
            name = uuid.uuid4().hex
            path = self._folder / f"{name}{_LOCK}"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # not taken for that of a writer that is gone, just before it was locked
                break
            os.close(lock)
        (self._folder / name).mkdir()
        self._name, self._process = name, os.getpid()
        weakref.finalize(self, _leave, self._folder / name, path, lock, self._process)


def _leave(staged: Path, path: Path, lock: int, process: int) -> None:
    """Take away what this writer had; a child process that was forked leaves it to its parent."""
    if process == os.getpid():
        shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):
            path.unlink()
    os.close(lock)


def is_gone(folder: Path, name: str) -> bool:
    """Whether a writer of this machine has ended; False where that is not known here, as of another machine."""
    path = folder / f"{name}{_LOCK}"
    if not path.is_file():
        return False
    with _locked(path) as is_free:
        return is_free


def sweep(folder: Path) -> int:
    """Drop what writers that are gone left half written; say how many files."""
    dropped = 0
    for path in folder.glob(f"*{_LOCK}"):
        staged = folder / path.name.removesuffix(_LOCK)
        with _locked(path) as is_free:
            if not is_free:
                continue
            if staged.is_dir() and not staged.is_symlink():
                dropped += sum(1 for _ in staged.iterdir())
                shutil.rmtree(staged, ignore_errors=True)
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                    path.unlink()
    return dropped


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a writer, if it can be had at once; say whether."""
    try:
        lock = open_lock(path)
    except OSError:
        yield False
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
