"""The store in a local folder."""

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistudio.artifacts.store import check_name
from mistudio.errors import NotFound, StorageError, StorageFull

# Staged files and locks live beside the content: same file system, so that a rename is atomic.
_PRIVATE = ".mistudio"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class LocalStore:
    """A store in a folder; see :class:`mistudio.artifacts.store.Store`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.url = str(self.root)
        self._staging = self.root / _PRIVATE / "staging"
        self._locks = self.root / _PRIVATE / "locks"
        with self._translated("open"):
            self._staging.mkdir(parents=True, exist_ok=True)
            self._locks.mkdir(parents=True, exist_ok=True)
            if not os.access(self._staging, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """Give a path to write to; on a clean exit the file appears under ``name`` at once."""
        target = self._path(name)
        # The same name every time: a writer that was killed leaves one file at most, for the next to overwrite.
        staged = self._staging / name.replace("/", "@")
        try:
            with self._translated(f"write {name} in"):
                yield staged
                _sync(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                staged.replace(target)
                _sync(target.parent)
        finally:
            staged.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one exists under ``name``; say whether it was written."""
        target = self._path(name)
        staged = self._staging / f"{uuid.uuid4().hex}-{target.name}"
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

    def fetch(self, name: str) -> Path:
        """The file itself."""
        path = self._path(name)
        if not path.is_file():
            message = f"{name} is not in the store {self.url}."
            raise NotFound(message)
        return path

    def size(self, name: str) -> int | None:
        """Size in bytes, or None where there is no such file."""
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def list(self, prefix: str = "") -> Iterator[str]:
        """Names of all files below ``prefix``, sorted."""
        start = self._path(prefix) if prefix else self.root
        names = (
            path.relative_to(self.root).as_posix()
            for path in start.rglob("*")
            if path.is_file() and not path.relative_to(self.root).parts[0].startswith(".")
        )
        yield from sorted(names)

    def remove(self, name: str) -> None:
        """Remove one file, and the folders that it leaves empty."""
        path = self._path(name)
        with self._translated(f"remove {name} from"):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                    return
                folder.rmdir()

    @contextmanager
    def lock(self, prefix: str) -> Iterator[None]:
        """Hold ``prefix`` for one writer, by a lock that the kernel drops with the process."""
        lock_path = self._locks / check_name(prefix).replace("/", ".")
        with self._translated(f"lock {prefix} in"):
            handle = lock_path.open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

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
