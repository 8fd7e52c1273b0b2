"""The store in a local folder.

A store follows no links below its root: what a name stands for lies in the store, whoever could put a link there. A
link where a file should be is no file, and nothing is written or removed through a linked folder.
"""

import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mistudio.artifacts.disk import (
    drop_staged,
    flat_name,
    is_full,
    link_unless_taken,
    open_lock,
    open_to_readers,
    removed_empty,
    sync,
)
from mistudio.artifacts.hashing import hash_file
from mistudio.artifacts.names import check_name, is_name
from mistudio.artifacts.store import Mode, Staged, Store, StoredFile
from mistudio.errors import MistudioError, NotFound, StorageError, StorageFull
from mistudio.plain_text import shortened
from mistudio.progress import say

# Staged files and locks live beside the content: same file system, so that a rename is atomic.
PRIVATE = ".mistudio"
_ABSENT = (FileNotFoundError, NotADirectoryError)
_SHOWN_CHARS = 200
_SETTLED_S = 3600.0  # no file is staged for longer without a lease


class LocalStore(Store):
    """A store in a folder; see :class:`mistudio.artifacts.store.Store`.

    Raises:
        StorageError: the folder cannot be made or written; to read, that there is none.
    """

    def __init__(self, root: Path, mode: Mode = "rw") -> None:
        self.root = expanded(root).absolute()
        self.url = str(self.root)
        self.read_only = mode == "r"
        self._staging = self.root / PRIVATE / "staging"
        self._locks = self.root / PRIVATE / "locks"
        self._is_open = False
        self._open_folders()
        self._is_open = True

    def _open_folders(self) -> None:
        with self._translated("open"):
            if self.read_only:
                os.scandir(self.root).close()
                return
            self._staging.mkdir(parents=True, exist_ok=True)
            self._locks.mkdir(parents=True, exist_ok=True)
            if not os.access(self._staging, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    @contextmanager
    def put(self, name: str) -> Iterator[Staged]:
        """Stage a file; on a clean exit it appears under ``name`` at once."""
        target = self._path(name)
        self._refuse_if_read_only(f"write {name} in")
        self._refuse_links(name.rpartition("/")[0], f"write {name} in")
        # The same name every time: a writer that was killed leaves one file at most, for the next to overwrite.
        staged = Staged(self._staging / flat_name(name))
        try:
            with self._translated(f"write {name} in"):
                staged.path.unlink(missing_ok=True)
                yield staged
                if staged.is_discarded:
                    return
                open_to_readers(staged.path)
                sync(staged.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                staged.path.replace(target)
                sync(target.parent)
        finally:
            drop_staged(staged.path)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one exists under ``name``; say whether it was written."""
        target = self._path(name)
        self._refuse_if_read_only(f"write {name} in")
        self._refuse_links(name, f"write {name} in")
        staged = self._staging / f"{flat_name(name)}@{uuid.uuid4().hex}"
        try:
            with self._translated(f"write {name} in"):
                staged.write_bytes(data)
                sync(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not link_unless_taken(staged, target):
                    return False
                sync(target.parent)
                return True
        finally:
            drop_staged(staged)

    def open(self, name: str) -> BinaryIO:
        """Open the file itself."""
        path = self.fetch(name)
        with self._translated(f"read {name} in"):
            return path.open("rb")

    def fetch(self, name: str, *, anew: bool = False) -> Path:
        """The file itself."""
        if self.find(name) is None:
            why = self.absence(name)
            message = f"{name} is not in the store {self._shown}{f': {why}' if why else '.'}"
            raise NotFound(message)
        return self._path(name)

    def fetch_folder(self, prefix: str, names: Iterable[str], *, anew: bool = False) -> Path:
        """The folder itself."""
        for name in names:
            self.fetch(f"{prefix}/{name}")
        return self._path(prefix)

    def sha256(self, name: str) -> str:
        """The hash of a file, which is read for it."""
        path = self.fetch(name)
        with self._translated(f"read {name} in"):
            return hash_file(path)

    def find(self, name: str) -> StoredFile | None:
        """The file of that name, or None where there is none."""
        found = self._find_listed(name)
        return None if found is None or self._link_to(name.rpartition("/")[0]) is not None else found

    def _find_listed(self, name: str) -> StoredFile | None:
        """As :meth:`find`, where no folder on the way is a link."""
        path = f"{self.url}/{check_name(name)}"  # a catalogue asks for thousands: no Path for each
        with self._translated(f"read {name} in"):
            try:
                status = os.lstat(path)
            except _ABSENT:
                return None
        return _stored(name, status) if stat.S_ISREG(status.st_mode) else None

    def absence(self, name: str) -> str | None:
        """That a link stands in the way, where one does."""
        link = self._link_to(check_name(name))
        return link and f"{link} is a link, and a store follows none. Put the file or folder itself in its place."

    def stat(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below the folder ``prefix``, by name."""
        for name, entry in self._children(prefix):
            if name.endswith("/"):
                yield from self.stat(name.removesuffix("/"))
                continue
            try:
                yield _stored(name, entry.stat(follow_symlinks=False))
            except _ABSENT:  # removed since its folder was listed
                continue

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below the folder ``prefix``, sorted."""
        return (name.removesuffix("/") for name, _ in self._children(prefix) if name.endswith("/"))

    def strays(self, prefix: str) -> Iterator[str]:
        """What lies below the folder ``prefix`` and is no file of the store; hidden files are passed over."""
        folder = self._path(prefix)
        if self._link_to(prefix) is not None:
            return
        with self._translated(f"list {prefix} in"):
            try:
                with os.scandir(folder) as entries:
                    found = sorted((entry for entry in entries if entry.name[:1] != "."), key=lambda entry: entry.name)
            except _ABSENT:
                return
        for entry in found:
            name = f"{prefix}/{entry.name}"
            if is_name(entry.name) and entry.is_dir(follow_symlinks=False):
                yield from self.strays(name)
            elif not (is_name(entry.name) and entry.is_file(follow_symlinks=False)):
                yield name

    def remove(self, name: str) -> None:
        """Remove one file, and the folders that it leaves empty; of a link the link itself, and nothing behind one."""
        path = self._path(name)
        self._refuse_if_read_only(f"remove {name} from")
        self._refuse_links(name.rpartition("/")[0], f"remove {name} from")
        with self._translated(f"remove {name} from"):
            try:
                path.unlink()
            except _ABSENT:
                return
        for folder in path.parents:
            # A folder at the top stays: without a lock of it, another process may be about to write there.
            if self.root in (folder, folder.parent) or not removed_empty(folder):
                return

    @contextmanager
    def lease(self, prefix: str) -> Iterator[None]:
        """Hold ``prefix`` for one writer, by a lock that the kernel drops with the process.

        The file of the lock stays: a process may be waiting for it.
        """
        self._refuse_if_read_only(f"work on {prefix} in")
        with self._translated(f"lock {prefix} in"):
            handle = open_lock(self._locks / flat_name(check_name(prefix)))
        with handle:
            if not self._locked(handle, prefix, fcntl.LOCK_EX | fcntl.LOCK_NB):
                say(f"Another process is working on {prefix}: waiting for it.")
                self._locked(handle, prefix, fcntl.LOCK_EX)
            yield

    def sweep(self, prefix: str = "") -> int:
        """Drop what writers that are gone left half written, below ``prefix`` or everywhere; say how many files.

        For a prefix, hold its lease. Everywhere, what belongs to a lease that is held stays, and so does what is young.
        """
        self._refuse_if_read_only(f"remove {prefix or 'unfinished files'} from")
        dropped = 0
        with self._translated(f"remove {prefix or 'unfinished files'} from"):
            for path in self._staged():
                if path.name.startswith(f"{flat_name(prefix)}@") if prefix else self._is_given_up(path):
                    path.unlink(missing_ok=True)
                    dropped += 1
        return dropped

    def _staged(self) -> list[Path]:
        """Files on their way into the store; none where that folder is a link, or gone."""
        if self._staging.is_symlink() or self._staging.parent.is_symlink() or not self._staging.is_dir():
            return []
        return list(self._staging.iterdir())

    def _is_given_up(self, staged: Path) -> bool:
        """Whether nobody writes a staged file any more: it is not young, and no lease above it is held."""
        try:
            if time.time() - staged.lstat().st_mtime < _SETTLED_S:
                return False
        except FileNotFoundError:
            return False
        parts = staged.name.split("@")
        locks = (self._locks / "@".join(parts[:end]) for end in range(1, len(parts)))
        return not any(self._is_held(lock) for lock in locks if lock.is_file())

    def _is_held(self, lock: Path) -> bool:
        with open_lock(lock) as handle:
            return not self._locked(handle, lock.name, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _locked(self, handle: BinaryIO, prefix: str, how: int) -> bool:
        """Take a lock, which its file's end gives back; False where another has it.

        Raises:
            StorageError: the file system has no such locks.
        """
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            return False
        except OSError as error:
            message = (
                f"Cannot lock {prefix} in the store {self._shown}: the file system has no locks of files "
                f"({error.strerror}). Put the store on a local disk (--store or MISTUDIO_STORE), or mount its file "
                "system with locks (Lustre: -o flock; NFS: with its lock service running)."
            )
            raise StorageError(message) from error
        return True

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    @property
    def _shown(self) -> str:
        """The root, for a message."""
        return self.url if len(self.url) <= _SHOWN_CHARS else f"{self.url[:_SHOWN_CHARS]}…"

    def _link_to(self, name: str) -> str | None:
        """The first part of the way from the root to ``name`` that is a link."""
        parts = name.split("/")
        ways = ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
        return next((way for way in ways if os.path.islink(f"{self.url}/{way}")), None)

    def _refuse_links(self, name: str, doing: str) -> None:
        link = self._link_to(name)
        if link is not None:
            message = (
                f"Cannot {doing} the store {self._shown}: {link} is a link, and a store follows none. Put the folder "
                "or file itself in its place, or remove the link."
            )
            raise StorageError(message)

    def _children(self, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
        """What is directly below a folder, a folder's name with "/" at its end; sorted as whole names are.

        What no store wrote, such as hidden files and links, is passed over.
        """
        if prefix and self._link_to(check_name(prefix)) is not None:
            return []
        folder = self._path(prefix) if prefix else self.root
        start = f"{prefix}/" if prefix else ""
        with self._translated(f"list {prefix or 'the files'} in"):
            try:
                with os.scandir(folder) as entries:
                    found = [entry for entry in entries if is_name(entry.name)]
            except _ABSENT:
                if prefix:
                    return []
                raise
        folders = [(f"{start}{entry.name}/", entry) for entry in found if entry.is_dir(follow_symlinks=False)]
        files = [(f"{start}{entry.name}", entry) for entry in found if entry.is_file(follow_symlinks=False)]
        return sorted(folders + files, key=lambda child: child[0])

    def _refuse_if_read_only(self, doing: str) -> None:
        if self.read_only:
            message = (
                f"Cannot {doing} the store {self.root}: it was opened to be read only. "
                "Choose another folder with --store or MISTUDIO_STORE."
            )
            raise StorageError(message)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn a failure of the disk into an error of ours that says what to do."""
        try:
            yield
        except Exception as error:
            if is_full(error):
                message = (
                    f"No space left to {doing} the store {self.root}. What is already written stays usable: "
                    "free some space (mistudio artifacts list shows sizes) and run the same command again."
                )
                raise StorageFull(message) from error
            if not isinstance(error, MistudioError) and self._is_gone():
                message = (
                    f"Cannot {doing} the store {self._shown}: it was removed, moved or unmounted since it was opened. "
                    "Bring it back and run the same command again: what it had is gone on with."
                )
                raise StorageError(message) from error
            if isinstance(error, OSError) and self._is_inside(error.filename):
                message = (
                    f"Cannot {doing} the store {self._shown}: {error.strerror}. "
                    "Choose another folder with --store or MISTUDIO_STORE."
                )
                raise StorageError(message) from error
            raise

    def _is_gone(self) -> bool:
        """Whether the store, which was there when it was opened, is no longer."""
        return self._is_open and not os.path.isdir(self.root if self.read_only else self._staging)

    def _is_inside(self, filename: str | bytes | int | None) -> bool:
        path = Path(os.fsdecode(filename)) if isinstance(filename, str | bytes) else None
        return path is not None and (path.is_relative_to(self.root) or self.root.is_relative_to(path))


def expanded(root: Path) -> Path:
    """A folder with ``~`` as the user's home.

    Raises:
        StorageError: there is no such user, or no file can have that name.
    """
    why = "It holds a zero byte." if "\0" in str(root) else ""
    try:
        expanded_root = root.expanduser()
        os.stat(expanded_root)
    except RuntimeError as error:
        why = str(error)
    except (*_ABSENT, PermissionError):
        pass
    except (OSError, ValueError) as error:
        why = why or f"{getattr(error, 'strerror', error)}."
    if why:
        message = (
            f"Cannot open the store {shortened(str(root))[1:-1]}: {why} Choose another folder with --store or "
            "MISTUDIO_STORE."
        )
        raise StorageError(message)
    return expanded_root


def _stored(name: str, status: os.stat_result) -> StoredFile:
    return StoredFile(name, status.st_size, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")
