"""The store interface: files under relative names, written atomically.

Names are POSIX paths relative to the store's root (``sae/0123abcd/sae.safetensors``). Implementations
pass the contract tests in ``tests/contract/test_store.py``.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from mistudio.artifacts.hashing import HashingWriter, file_state, hash_file

Mode = Literal["r", "rw"]


class StoredFile(NamedTuple):
    """A file as a listing shows it."""

    name: str
    num_bytes: int
    version: str  # another one whenever the file was written anew


class Staged:
    """A file on its way into a store: written through :meth:`open`, or to ``path`` by a library that wants a name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_discarded = False
        self._writer: HashingWriter | None = None
        self._measured: tuple[tuple[int, ...], str] | None = None

    def open(self) -> HashingWriter:
        """Write the file from its start, to be closed at its end; the hash is taken on the way."""
        self._writer = HashingWriter(self.path)
        return self._writer

    def discard(self) -> None:
        """Let the file not appear after all."""
        self.is_discarded = True

    def measure(self) -> tuple[int, str]:
        """Size in bytes and sha256, while it is staged; the file is read if not all of it came through :meth:`open`."""
        size = self.path.stat().st_size
        if self._writer is not None and self._writer.num_bytes == size:
            return size, self._writer.sha256
        state = file_state(self.path)
        if self._measured is None or self._measured[0] != state:
            self._measured = state, hash_file(self.path)
        return size, self._measured[1]


class Store(ABC):
    """Files under relative names. A reader sees a whole file or none.

    Attributes:
        url: what :func:`mistudio.artifacts.open_store` opens it by.
        read_only: whether all that would change it is refused.
    """

    url: str
    read_only: bool

    @abstractmethod
    def put(self, name: str) -> AbstractContextManager[Staged]:
        """Stage a file; on a clean exit it appears under ``name`` at once, whatever was there before.

        One writer at a time: hold the lease of the prefix.

        Raises:
            StorageFull: the disk is full.
            StorageError: the store cannot be written.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one exists under ``name``; say whether it was written.

        Of any number of writers on any number of machines exactly one succeeds.

        Raises:
            StorageError: the store cannot be written.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open a file for reading: seekable, and only what is read is fetched.

        Raises:
            NotFound: there is no such file.
        """

    def read(self, name: str) -> bytes:
        """The content of a small file.

        Raises:
            NotFound: there is no such file.
        """
        with self.open(name) as file:
            return file.read()

    @abstractmethod
    def fetch(self, name: str, *, anew: bool = False) -> Path:
        """A local, memory-mappable file with the content of ``name``; not to be written to.

        A store that is elsewhere gives a copy, which this machine may drop once others were fetched. So open it soon;
        what is open, or mapped, stays readable.

        Args:
            name: which.
            anew: not the copy that this machine has already, in case that is what is damaged.

        Raises:
            NotFound: there is no such file.
        """

    @abstractmethod
    def fetch_folder(self, prefix: str, names: Iterable[str], *, anew: bool = False) -> Path:
        """A local folder with files of the folder ``prefix``, under their names; it stays while this process lives.

        Args:
            prefix: the folder.
            names: which, relative to it; a store in a folder shows what else is there too.
            anew: as for :meth:`fetch`.

        Raises:
            NotFound: one of them is not there.
        """

    @property
    def copies_bytes(self) -> int | None:
        """How many bytes of copies this machine keeps at most; None where :meth:`fetch` gives the files themselves.

        A copy that is dropped takes its place on the disk until nobody has it open. So who has many open closes some.
        """
        return None

    @abstractmethod
    def sha256(self, name: str) -> str:
        """The hash of a file, in hex; a store that keeps hashes beside its files need not read it.

        Raises:
            NotFound: there is no such file.
        """

    @abstractmethod
    def find(self, name: str) -> StoredFile | None:
        """The file of that name, or None where there is none."""

    def absence(self, name: str) -> str | None:
        """Why there is no file of that name, for a message; None where there is no more to say."""
        return None

    def strays(self, prefix: str) -> Iterator[str]:
        """What lies below the folder ``prefix`` and is no file of the store, such as links: names, in order.

        Nothing of it is listed or read elsewhere.
        """
        return iter(())

    def sweep(self, prefix: str = "") -> int:
        """Drop what writers that are gone left half written, below ``prefix`` or everywhere; say how many files.

        Raises:
            StorageError: the store cannot be written.
        """
        return 0

    def size(self, name: str) -> int | None:
        """Size in bytes, or None where there is no such file."""
        found = self.find(name)
        return None if found is None else found.num_bytes

    @abstractmethod
    def stat(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below the folder ``prefix`` in one listing, by name; unfinished writes are not listed.

        A prefix is whole parts of a name: ``sae/ab`` does not list ``sae/abc/x``, nor the file ``sae/ab``.
        """

    def list(self, prefix: str = "") -> Iterator[str]:
        """The names of all files below the folder ``prefix``, sorted; see :meth:`stat`."""
        return (file.name for file in self.stat(prefix))

    @abstractmethod
    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below the folder ``prefix``, sorted; what is in them is not looked at."""

    def outermost(self, name: str, prefix: str = "", skip: Container[str] = ()) -> Iterator[StoredFile]:
        """The files called ``name`` below the folder ``prefix``; folders in a folder that has one are not looked at.

        Args:
            name: last part of the names to look for.
            prefix: where to look; "" is the whole store.
            skip: folders to pass over.
        """
        for folder in self.folders(prefix):
            if folder in skip:
                continue
            found = self._find_listed(f"{folder}/{name}")
            if found is not None:
                yield found
            else:
                yield from self.outermost(name, folder, skip)

    def _find_listed(self, name: str) -> StoredFile | None:
        """As :meth:`find`, for a file in a folder that a listing has just shown."""
        return self.find(name)

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove one file; a file that is not there is no error.

        Raises:
            StorageError: the store cannot be written.
        """

    @abstractmethod
    def lease(self, prefix: str) -> AbstractContextManager[None]:
        """Hold ``prefix`` for one writer; wait where another has it.

        It ends with its process, however that ends: at once where the kernel sees to it, after a while where a store
        has to notice that it is renewed no more. So a holder that stood still for long may find that another has gone
        on meanwhile. From then on what it would write or remove below ``prefix`` is refused. A single file that was on
        its way when the lease went may still appear: it appears whole, the same recipe gives the same bytes, and
        :meth:`create` has one winner.

        Raises:
            StorageError: the store cannot be written.
        """
