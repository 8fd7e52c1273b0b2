"""A prefix while a step writes it: files appear whole, and what a killed run left is kept.

Every file is hashed once: while it is written, or when it is finished where a library wrote it. Only what an earlier
run left has to be read for its hash.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mistudio.artifacts.hashing import HashingWriter
from mistudio.artifacts.manifest import MANIFEST_NAME, WORK, FileEntry, is_reserved
from mistudio.artifacts.store import Staged, Store
from mistudio.errors import InputError, StorageError
from mistudio.progress import byte_progress


class Draft:
    """A prefix being written, by the one who has its lease."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self._written: dict[str, FileEntry] = {}
        self._listed: set[str] | None = None

    def has(self, path: str) -> bool:
        """Whether ``path`` is already finished, by this run or by one that was killed."""
        return self.store.find(f"{self.prefix}/{path}") is not None

    @contextmanager
    def stage(self, path: str) -> Iterator[Path]:
        """Give a local path to write to; on a clean exit it becomes the artifact's file ``path``.

        Raises:
            InputError: no file of an artifact can have this name.
            StorageFull: the disk is full.
            StorageError: the store cannot be written.
        """
        with self._put(path) as staged:
            yield staged.path

    @contextmanager
    def open(self, path: str) -> Iterator[HashingWriter]:
        """Write the artifact's file ``path`` from start to end, as :meth:`stage` does, hashed on the way."""
        with self._put(path) as staged, staged.open() as file:
            yield file

    def write(self, path: str, data: bytes) -> None:
        """Write one small file of the artifact."""
        with self.open(path) as file:
            file.write(data)

    def file(self, path: str) -> Path:
        """A finished file of this draft."""
        return self.store.fetch(f"{self.prefix}/{path}")

    def work_names(self) -> list[str]:
        """Names of the working files: checkpoints and the like, dropped when the artifact is published."""
        return sorted(self._work)

    def has_work(self, name: str) -> bool:
        """Whether there is a working file of this name; they are listed once, however often one asks."""
        return name in self._work

    @contextmanager
    def stage_work(self, name: str) -> Iterator[Path]:
        """Give a local path for a working file; it appears whole, or not at all."""
        with self.store.put(f"{self.prefix}/{WORK}/{name}") as staged:
            yield staged.path
        self._work.add(name)

    def work_once(self, name: str, write: Callable[[Path], object]) -> Path:
        """The working file of one block of a step: as an earlier run left it, else what ``write`` writes to a path."""
        if not self.has_work(name):
            with self.stage_work(name) as path:
                write(path)
        return self.work_file(name)

    def work_file(self, name: str) -> Path:
        """A working file that this run or an earlier one wrote."""
        return self.store.fetch(f"{self.prefix}/{WORK}/{name}")

    def remove_work(self, name: str) -> None:
        """Drop one working file."""
        self.store.remove(f"{self.prefix}/{WORK}/{name}")
        self._work.discard(name)

    def clear(self) -> None:
        """Drop all files, for a step that cannot go on where another left off."""
        for name in [file.name for file in self.store.stat(self.prefix)]:
            self.store.remove(name)
        self._written.clear()
        self._listed = None

    def entries(self) -> tuple[FileEntry, ...]:
        """Size and hash of every finished file, by name; what an earlier run left is read for it.

        Raises:
            StorageError: a file that was written is no longer there.
        """
        start = f"{self.prefix}/"
        sizes = {file.name.removeprefix(start): file.num_bytes for file in self.store.stat(self.prefix)}
        sizes = {path: size for path, size in sizes.items() if not is_reserved(path)}
        gone = sorted(self._written.keys() - sizes.keys())
        if gone:
            message = (
                f"{self.prefix}/{gone[0]} was removed from the store {self.store.url} while the step ran. "
                "Run the same command again: what is still there is gone on with."
            )
            raise StorageError(message)
        known = {path: entry for path, entry in self._written.items() if entry.bytes == sizes.get(path)}
        left = [path for path in sizes if path not in known]
        with byte_progress(f"Hash {self.prefix}", sum(sizes[path] for path in left)) as bar:
            for path in left:
                known[path] = FileEntry(path=path, bytes=sizes[path], sha256=self.store.sha256(start + path))
                bar.advance(sizes[path], path)
        return tuple(known[path] for path in sizes)

    @property
    def _work(self) -> set[str]:
        if self._listed is None:
            start = f"{self.prefix}/{WORK}"
            self._listed = {file.name.removeprefix(f"{start}/") for file in self.store.stat(start)}
        return self._listed

    @contextmanager
    def _put(self, path: str) -> Iterator[Staged]:
        if is_reserved(path):
            message = f"An artifact's file cannot be called {path!r}: this name has another use."
            raise InputError(message)
        with self.store.put(f"{self.prefix}/{path}") as staged:
            yield staged
            if self.has(MANIFEST_NAME):  # published by another meanwhile, who wrote this file too
                staged.discard()
            else:
                size, sha256 = staged.measure()
                self._written[path] = FileEntry(path=path, bytes=size, sha256=sha256)
