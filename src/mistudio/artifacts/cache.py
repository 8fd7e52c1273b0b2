"""Copies of a store's files on this machine's disk: whole, shared by its processes, and no more than a given size.

An entry is a folder with one or more files, which is made aside and then gets its name, so that it is whole or not
there. Its name is made of all that decides its content, so that it is never stale. What was used longest ago goes
first.
A process holds locks of what it used last: those are passed over, so that a path it was given stays for a while; files
that are mapped stay readable in any case. The locks are the kernel's, which drops them with the process.
"""

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import platformdirs

from mistudio.artifacts.disk import is_full, open_lock
from mistudio.artifacts.local import expanded
from mistudio.errors import ConfigError, StorageError, StorageFull

logger = logging.getLogger(__name__)

FOLDER_ENV = "MISTUDIO_CACHE"
LIMIT_ENV = "MISTUDIO_CACHE_GB"
_GB = 10**9
_DEFAULT_GB = 20.0
_HELD_FILES = 64  # by a process, of those it used last
_HELD_SHARE = 0.5  # of the limit, at most, unless one entry is larger
_KEPT_FREE_BYTES = 1 << 28  # of the disk, for others
_LOCKS = 256
_COUNTED_ANEW = 1 / 16  # of the limit: after so much was added, others may have added too


_KEPT: dict[str, int] = {}  # locks by path, for as long as this process lives


class _Entry(NamedTuple):
    path: Path
    num_bytes: int
    used_ns: int


def default_folder() -> Path:
    """``MISTUDIO_CACHE``, else a folder in ``MISTUDIO_SCRATCH`` or in the user's cache directory."""
    given = os.environ.get(FOLDER_ENV)
    if given:
        return expanded(Path(given)).absolute()
    scratch = os.environ.get("MISTUDIO_SCRATCH")
    base = expanded(Path(scratch)).absolute() if scratch else platformdirs.user_cache_path("mistudio")
    return base / "files"


def default_limit() -> int:
    """``MISTUDIO_CACHE_GB`` in bytes, else 20 GB.

    Raises:
        ConfigError: it is no number above 0.
    """
    given = os.environ.get(LIMIT_ENV, "").strip() or str(_DEFAULT_GB)
    try:
        limit = int(float(given) * _GB)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        message = f"{LIMIT_ENV}={given!r} is no number of gigabytes above 0: set it to how much the cache may hold."
        raise ConfigError(message)
    return limit


class FileCache:
    """Entries by key in a folder, which other processes may use too.

    Attributes:
        limit: how many bytes it holds at most; one entry that is larger is kept until the next is made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._entries, self._new, self._locks = folder / "entries", folder / "new", folder / "locks"
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[int, int]] = OrderedDict()  # name: its lock, and bytes
        weakref.finalize(self, _let_go_of_all, self._held)
        self._added = self._until_counted = 0  # bytes since all was counted, and of how many that is done anew

    def entry(self, key: str, num_bytes: int, make: Callable[[Path], None], *, keep: bool = False) -> Path:
        """The folder of an entry; made where it is not there.

        Args:
            key: decides what is in it.
            num_bytes: how much that is.
            make: writes its files into an empty folder.
            keep: hold it for as long as this process lives.

        Raises:
            StorageFull: the disk is full, with nothing in the cache left to drop.
            StorageError: the folder of the cache cannot be written.
        """
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self._entries / name[:2] / name
        with _told(self.folder):
            while not self._use(path, num_bytes, keep):
                with self._alone(name):  # others that want the same wait, and then find it
                    if not path.is_dir():
                        self._make(path, num_bytes, make)
        return path

    def adopt(self, key: str, file: Path, basename: str) -> None:
        """Take a file that was made elsewhere for an entry, if that costs nothing; it may be gone then."""
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self._entries / name[:2] / name
        with suppress(OSError), self._alone(name):
            num_bytes = file.stat().st_size
            if path.is_dir() or num_bytes > self.limit * _HELD_SHARE:
                return
            with self._fresh() as fresh:
                file.replace(fresh / basename)  # fails between file systems
                self._room_for(num_bytes)
                self._name(fresh, path)

    def drop(self, key: str) -> bool:
        """Drop an entry, whoever uses it; say whether there was one."""
        name = hashlib.sha256(key.encode()).hexdigest()
        path = self._entries / name[:2] / name
        return path.is_dir() and self._remove(path)

    def empty(self) -> None:
        """Drop everything that no process has used just now, or keeps."""
        with self._lock:
            _let_go_of_all(self._held)
        for each in self._all():
            self._drop_unheld(each)

    def _make(self, path: Path, num_bytes: int, make: Callable[[Path], None]) -> None:
        """Make an entry; where the disk is full, once more after all else was dropped."""
        self._room_for(num_bytes)
        try:
            self._make_once(path, make)
        except Exception as error:
            if not is_full(error):
                raise
            logger.warning("The disk of the cache %s is full: the cache is emptied.", self.folder)
            self.empty()
            self._make_once(path, make)

    def _make_once(self, path: Path, make: Callable[[Path], None]) -> None:
        with self._fresh() as fresh:
            make(fresh)
            self._name(fresh, path)

    @contextmanager
    def _fresh(self) -> Iterator[Path]:
        """An empty folder, which is gone at the end unless it got another name."""
        fresh = self._new / uuid.uuid4().hex
        self._new.mkdir(parents=True, exist_ok=True)
        fresh.mkdir()
        lock = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            fresh.mkdir(exist_ok=True)  # taken for one that was left, just before it was locked
            yield fresh
        finally:
            os.close(lock)
            shutil.rmtree(fresh, ignore_errors=True)

    def _name(self, fresh: Path, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(path)

    def _use(self, path: Path, num_bytes: int, keep: bool) -> bool:
        """Hold an entry and note that it was used; False where it is not there."""
        with self._lock:
            name = path.name
            if str(path) in _KEPT:
                if _touched(path, _KEPT[str(path)]):
                    return True
                os.close(_KEPT.pop(str(path)))
            if name in self._held:
                self._held.move_to_end(name)
                if _touched(path, self._held[name][0]):
                    return True
                os.close(self._held.pop(name)[0])
            try:
                lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                return False
            fcntl.flock(lock, fcntl.LOCK_SH)  # waits for one who is about to drop it
            if not _touched(path, lock):
                os.close(lock)
                return False
            if keep:
                _KEPT[str(path)] = lock
            else:
                self._held[name] = (lock, num_bytes)
            self._let_go()
            return True

    def _let_go(self) -> None:
        """Hold no more than a share of the cache: what was used last."""
        while len(self._held) > 1 and (
            len(self._held) > _HELD_FILES or sum(size for _, size in self._held.values()) > self.limit * _HELD_SHARE
        ):
            os.close(self._held.popitem(last=False)[1][0])

    def _room_for(self, num_bytes: int) -> None:
        """Drop what was used longest ago, until so much more fits into the limit and onto the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        spare = shutil.disk_usage(self.folder).free - num_bytes - _KEPT_FREE_BYTES
        self._added += num_bytes
        if self._added <= self._until_counted and spare >= 0:
            return
        entries = sorted(self._all(), key=lambda entry: entry.used_ns)
        excess = max(sum(entry.num_bytes for entry in entries) + num_bytes - self.limit, -spare)
        for entry in entries:
            if excess <= 0:
                break
            if self._drop_unheld(entry):
                excess -= entry.num_bytes
        self._sweep()
        self._added = num_bytes
        self._until_counted = min(max(-excess, 0), int(self.limit * _COUNTED_ANEW))

    def _all(self) -> Iterator[_Entry]:
        """All entries. A file that others name too is shared out among them."""
        for path in self._entries.glob("*/*"):
            try:
                files = [each.stat() for each in path.rglob("*")]
                num_bytes = sum(each.st_size // each.st_nlink for each in files if each.st_nlink)
                yield _Entry(path, num_bytes, path.stat().st_mtime_ns)
            except OSError:  # dropped meanwhile
                continue

    def _drop_unheld(self, entry: _Entry) -> bool:
        """Drop an entry that no process holds; say whether it was."""
        try:
            lock = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Dropped and made anew before it was locked, it is one that somebody may hold.
            return _is_locked(entry.path, lock) and self._remove(entry.path)
        except OSError:
            return False
        finally:
            os.close(lock)

    def _remove(self, path: Path) -> bool:
        """Take its name from an entry, so that nobody finds half of it, and then its files."""
        gone = self._new / uuid.uuid4().hex
        self._new.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(gone)
        except OSError:
            return False
        shutil.rmtree(gone, ignore_errors=True)
        return True

    def _sweep(self) -> None:
        """Drop what processes that are gone left half made."""
        for path in self._new.glob("*"):
            with suppress(OSError):
                lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Be the one who makes an entry, among all threads and processes."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with open_lock(self._locks / str(int(name[:8], 16) % _LOCKS)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _touched(path: Path, lock: int) -> bool:
    """Note that an entry was used; False where it is not there, or is another than the one that is locked."""
    try:
        if not _is_locked(path, lock):
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _is_locked(path: Path, lock: int) -> bool:
    """Whether an entry is the one that is locked, and not one that was made anew since."""
    return os.path.samestat(os.stat(path), os.fstat(lock))


def _let_go_of_all(held: "OrderedDict[str, tuple[int, int]]") -> None:
    while held:
        os.close(held.popitem()[1][0])


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn a failure of the cache's disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        inside = error.filename is None or str(error.filename).startswith(str(folder))
        if is_full(error):
            message = (
                f"No space left for the cache {folder}, also when it was emptied. Free some, or let {FOLDER_ENV} name "
                "a folder on a larger disk, and run the same command again."
            )
            raise StorageFull(message) from error
        if inside and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            message = (
                f"The cache {folder} cannot be written: {error.strerror}. Let {FOLDER_ENV} name a folder that can."
            )
            raise StorageError(message) from error
        raise
