"""The store in a local folder."""

import errno
import fcntl
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mistudio.artifacts.hashing import hash_file
from mistudio.artifacts.names import check_name, is_name
from mistudio.artifacts.store import Mode, Staged, Store, StoredFile
from mistudio.errors import InputError, NotFound, StorageError, StorageFull
from mistudio.paths import given_path

logger = logging.getLogger(__name__)

# Staged files and locks live beside the content: same file system, so that a rename is atomic.
PRIVATE = ".mistudio"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ABSENT = (FileNotFoundError, NotADirectoryError)


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
        # The same name every time: a writer that was killed leaves one file at most, for the next to overwrite.
        staged = Staged(self._staging / _flat(name))
        try:
            with self._translated(f"write {name} in"):
                staged.path.unlink(missing_ok=True)
                yield staged
                if staged.is_discarded:
                    return
                _sync(staged.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                staged.path.replace(target)
                _sync(target.parent)
        finally:
            staged.path.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one exists under ``name``; say whether it was written."""
        target = self._path(name)
        self._refuse_if_read_only(f"write {name} in")
        staged = self._staging / uuid.uuid4().hex
        try:
            with self._translated(f"write {name} in"):
                staged.write_bytes(data)
                _sync(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(staged, target)  # unlike a rename, a link fails if the target exists
                except FileExistsError:
                    return False
                _sync(target.parent)
                return True
        finally:
            staged.unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO:
        """Open the file itself."""
        path = self.fetch(name)
        with self._translated(f"read {name} in"):
            return path.open("rb")

    def fetch(self, name: str) -> Path:
        """The file itself."""
        if self.find(name) is None:
            message = f"{name} is not in the store {self.url}."
            raise NotFound(message)
        return self._path(name)

    def sha256(self, name: str) -> str:
        """The hash of a file, which is read for it."""
        path = self.fetch(name)
        with self._translated(f"read {name} in"):
            return hash_file(path)

    def find(self, name: str) -> StoredFile | None:
        """The file of that name, or None where there is none."""
        path = f"{self.url}/{check_name(name)}"  # a catalogue asks for thousands: no Path for each
        with self._translated(f"read {name} in"):
            try:
                status = os.stat(path)
            except _ABSENT:
                return None
        return _stored(name, status) if stat.S_ISREG(status.st_mode) else None

    def stat(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below the folder ``prefix``, by name."""
        for name, entry in self._children(prefix):
            if name.endswith("/"):
                yield from self.stat(name.removesuffix("/"))
                continue
            try:
                yield _stored(name, entry.stat())
            except _ABSENT:  # removed since its folder was listed
                continue

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below the folder ``prefix``, sorted."""
        return (name.removesuffix("/") for name, _ in self._children(prefix) if name.endswith("/"))

    def remove(self, name: str) -> None:
        """Remove one file, and the folders that it leaves empty."""
        path = self._path(name)
        self._refuse_if_read_only(f"remove {name} from")
        with self._translated(f"remove {name} from"):
            try:
                path.unlink()
            except _ABSENT:
                return
        for folder in path.parents:
            # A folder at the top stays: without a lock of it, another process may be about to write there.
            if self.root in (folder, folder.parent) or not _removed_empty(folder):
                return

    @contextmanager
    def lease(self, prefix: str) -> Iterator[None]:
        """Hold ``prefix`` for one writer, by a lock that the kernel drops with the process.

        The file of the lock stays: a process may be waiting for it.
        """
        lock_path = self._locks / _flat(check_name(prefix))
        self._refuse_if_read_only(f"work on {prefix} in")
        with self._translated(f"lock {prefix} in"):
            handle = lock_path.open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("Another process is working on %s: waiting for it.", prefix)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def _children(self, prefix: str) -> list[tuple[str, os.DirEntry[str]]]:
        """What is directly below a folder, a folder's name with "/" at its end; sorted as whole names are.

        What no store wrote, such as hidden files and links to folders, is passed over.
        """
        folder = self._path(prefix) if prefix else self.root
        start = f"{prefix}/" if prefix else ""
        with self._translated(f"list {prefix or 'the files'} in"):
            try:
                with os.scandir(folder) as entries:
                    found = [entry for entry in entries if is_name(entry.name)]
            except _ABSENT:
                return []
            folders = [(f"{start}{entry.name}/", entry) for entry in found if entry.is_dir(follow_symlinks=False)]
            files = [(f"{start}{entry.name}", entry) for entry in found if entry.is_file()]
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
            if _is_full(error):
                message = (
                    f"No space left to {doing} the store {self.root}. What is already written stays usable: "
                    "free some space (mistudio artifacts list shows sizes) and run the same command again."
                )
                raise StorageFull(message) from error
            if isinstance(error, OSError) and self._is_inside(error.filename):
                message = (
                    f"Cannot {doing} the store {self.root}: {error.strerror}. "
                    "Choose another folder with --store or MISTUDIO_STORE."
                )
                raise StorageError(message) from error
            raise

    def _is_inside(self, filename: str | bytes | int | None) -> bool:
        path = Path(os.fsdecode(filename)) if isinstance(filename, str | bytes) else None
        return path is not None and (path.is_relative_to(self.root) or self.root.is_relative_to(path))


def expanded(root: Path) -> Path:
    """A folder with ``~`` as the user's home.

    Raises:
        StorageError: there is no such user, or no file system takes such a path.
    """
    try:
        return given_path(root, "The store (--store or MISTUDIO_STORE)")
    except InputError as error:
        raise StorageError(str(error)) from error


def _stored(name: str, status: os.stat_result) -> StoredFile:
    return StoredFile(name, status.st_size, f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}")


def _flat(name: str) -> str:
    """A name without folders; "@" is in no name, so no two names become one."""
    return name.replace("/", "@")


def _removed_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or another process was first
        return False
    return True


def _is_full(error: Exception) -> bool:
    """Whether a disk is full; safetensors reports it in its own exception, by the text alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {code})" in str(error) for code in _FULL)


def _sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
