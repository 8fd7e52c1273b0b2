"""The store in a bucket.

What a store needs beside the files of its artifacts lies below ``.mistudio/``, as in a folder; no name begins so.
Objects carry their sha256 as metadata. Files are staged on this machine, read through its cache, and appear by one
request that either is done or is not.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mistudio.artifacts.cache import FileCache, default_folder, default_limit
from mistudio.artifacts.disk import drop_staged, flat_name, is_full
from mistudio.artifacts.names import check_name, is_name
from mistudio.artifacts.s3 import lease, sweeping, writers
from mistudio.artifacts.s3.address import Address, endpoint, region
from mistudio.artifacts.s3.limits import Limits
from mistudio.artifacts.s3.ranged import open_ranged
from mistudio.artifacts.s3.requests import Found, Requests
from mistudio.artifacts.s3.transfer import download, upload
from mistudio.artifacts.s3.trouble import Replaced
from mistudio.artifacts.scratch import scratch_folder
from mistudio.artifacts.store import Mode, Staged, Store, StoredFile
from mistudio.errors import MistudioError, NotFound, StorageError, StorageFull

logger = logging.getLogger(__name__)

PRIVATE = ".mistudio"
_BEHIND_PRIVATE = "/"  # no name of a file sorts before it, and all that is private does
_BEHIND_ALL = "~"  # and this behind all
_TRIES = 5  # of reading an object that is written anew meanwhile
_NO_ETAG = "0" * 32  # which no content has
_JUMP = 1000  # so many objects of one folder are passed over one by one


class S3Store(Store):
    """A store in a bucket; see :class:`mistudio.artifacts.store.Store`.

    Raises:
        ConfigError: the environment holds half a pair of keys, or none.
        StorageError: the endpoint cannot be reached, there is no such bucket, or it may not be listed; to read, that
            there is nothing below the prefix.
    """

    def __init__(
        self, address: Address, mode: Mode = "rw", limits: Limits | None = None, *, must_be_there: bool = False
    ) -> None:
        self.url, self.read_only = address.url, mode == "r"
        self._address, self._endpoint = address, endpoint()
        self._limits = limits or Limits()
        self._scratch = scratch_folder(self.url)
        self._writer = writers.Writer(self._scratch / "writers")
        self._cache = FileCache(default_folder(), default_limit())
        self._requests, self._process = self._connect(), os.getpid()
        self._keeps_conditions = False
        self._held: dict[str, lease.Held] = {}  # by prefix
        is_there = self._requests.has_any(self._below(""), "open")
        if (self.read_only or must_be_there) and not is_there:
            message = (
                f"Cannot open the store {self.url} at {self._endpoint.url}: there is nothing in it. Name another with "
                "--store or MISTUDIO_STORE, or write to it first."
            )
            raise StorageError(message)

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return S3Store, (self._address, "r" if self.read_only else "rw", self._limits)

    @contextmanager
    def put(self, name: str) -> Iterator[Staged]:
        """Stage a file on this machine; on a clean exit it is sent, and appears under ``name`` at once."""
        key = self._key(name)
        self._refuse_if_read_only(f"write {name} in")
        with self._translated(f"write {name} in"):
            staged = Staged(self._writer.path(_last(name)))
            try:
                yield staged
                if staged.is_discarded:
                    return
                size, sha256 = staged.measure()
                doing = f"write {name} in"
                etag = upload(self._ask, key, staged.path, size, sha256, doing, lambda: self._check_lease(name, doing))
                self._cache.adopt(self._copy_of(name, size, etag), staged.path, _last(name))
            finally:
                drop_staged(staged.path)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one exists under ``name``, by a conditional request."""
        key, doing = self._key(name), f"write {name} in"
        self._refuse_if_read_only(doing)
        self._check_conditions(doing)
        try:
            self._check_lease(name, doing)
        except StorageError:
            if self._ask.find(key, doing) is None:
                raise
            return False
        return self._ask.put_if(key, data, {"If-None-Match": "*"}, doing) is not None

    def open(self, name: str) -> BinaryIO:
        """Open an object as it is now; what is read of it is fetched."""
        return open_ranged(self._ask, self._key(name), self._found(name), f"read {name} in")

    def read(self, name: str) -> bytes:
        """The content of a small file, in one request."""
        there = self._ask.get(self._key(name), f"read {name} in")
        if there is None:
            raise self._absent(name)
        return there[0]

    def fetch(self, name: str, *, anew: bool = False) -> Path:
        """A copy in the cache."""
        return self._at_rest(name, lambda: self._fetch(name, anew))

    def fetch_folder(self, prefix: str, names: Iterable[str], *, anew: bool = False) -> Path:
        """A folder of copies in the cache; a file that was fetched by itself is there once more."""
        check_name(prefix)
        wanted = sorted(names)
        return self._at_rest(prefix, lambda: self._fetch_folder(prefix, wanted, anew))

    @property
    def copies_bytes(self) -> int:
        """How much the cache holds."""
        return self._cache.limit

    def sha256(self, name: str) -> str:
        """The hash that an object carries; one that carries none is read for it."""
        found = self._found(name)
        return found.sha256 or self._hash(name)

    def find(self, name: str) -> StoredFile | None:
        """The file of that name, or None where there is none."""
        found = self._ask.find(self._key(name), f"read {name} in")
        return None if found is None else StoredFile(name, found.num_bytes, found.etag)

    def strays(self, prefix: str) -> Iterator[str]:
        """Objects below the folder ``prefix`` that no store has written; hidden ones are passed over."""
        for each in self._ask.objects(self._below(check_name(prefix)), f"list {prefix} in"):
            name = self._name(each.key)
            if not is_name(name) and not any(part.startswith(".") for part in name.split("/")):
                yield name

    def stat(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below the folder ``prefix``, by name, a thousand with a request."""
        return self._stat(self._below(check_name(prefix) if prefix else ""), prefix)

    def _stat(self, below: str, prefix: str, after: str = "") -> Iterator[StoredFile]:
        after = after or (f"{below}{_BEHIND_PRIVATE}" if not prefix else "")
        for each in self._ask.objects(below, f"list {prefix or 'the files'} in", after):
            name = self._name(each.key)
            if is_name(name):
                yield StoredFile(name, each.num_bytes, each.etag)

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below the folder ``prefix``, in one request for a thousand."""
        below = self._below(check_name(prefix) if prefix else "")
        for key in self._ask.folders(below, f"list {prefix or 'the files'} in"):
            name = self._name(key.removesuffix("/"))
            if is_name(name):
                yield name

    def outermost(self, name: str, prefix: str = "", skip: Container[str] = ()) -> Iterator[StoredFile]:
        """The files called ``name`` below the folder ``prefix``, from one listing instead of a request for each."""
        found = {file.name.rpartition("/")[0]: file for file in self._called(name, prefix) if "/" in file.name}
        found.pop(prefix, None)
        for folder, file in found.items():
            parts = folder.split("/")
            above = ("/".join(parts[:end]) for end in range(1, len(parts)))
            if not any(each in found and len(each) > len(prefix) for each in above) and not _is_below(folder, skip):
                yield file

    def _called(self, name: str, prefix: str) -> Iterator[StoredFile]:
        """Files of that name, by name; the rest of a folder that has one and many others is stepped over."""
        below = self._below(check_name(prefix) if prefix else "")
        after, folder, passed = "", None, 0
        while True:
            for file in self._stat(below, prefix, after):
                if file.name.rpartition("/")[2] == name:
                    folder, passed = file.name.removesuffix(name), 0
                    yield file
                elif folder and file.name.startswith(folder):
                    passed += 1
                    if passed == _JUMP:
                        after = self._address.key(f"{folder}{_BEHIND_ALL}")
                        folder, passed = None, 0
                        break
            else:
                return

    def remove(self, name: str) -> None:
        """Remove one object."""
        key, doing = self._key(name), f"remove {name} from"
        self._refuse_if_read_only(doing)
        self._check_lease(name, doing)
        self._ask.remove(key, doing)

    def lease(self, prefix: str) -> AbstractContextManager[None]:
        """Hold ``prefix`` for one writer, by an object that says so and is renewed."""
        return self._leased(check_name(prefix))

    @contextmanager
    def _leased(self, prefix: str) -> Iterator[None]:
        self._refuse_if_read_only(f"work on {prefix} in")
        self._check_conditions(f"lock {prefix} in")
        writers_folder = self._scratch / "writers"
        with self._translated(f"lock {prefix} in"):
            name = self._writer.name
        with lease.held(
            self._ask,
            self._lease_key(prefix),
            prefix,
            name,
            lambda name: writers.is_gone(writers_folder, name),
        ) as holding:
            self._held[prefix] = holding
            try:
                yield
            finally:
                del self._held[prefix]

    def _check_lease(self, name: str, doing: str) -> None:
        """Refuse to write below a prefix whose lease this process has held and lost."""
        for prefix, holding in list(self._held.items()):
            if f"{name}/".startswith(f"{prefix}/"):
                holding.check(doing)

    def sweep(self, prefix: str = "") -> int:
        """Drop uploads that were begun and not ended, and what writers of this machine that are gone had staged.

        For a prefix, hold its lease. Everywhere, what belongs to a lease that is held stays, and so does what is young.
        A server that does not show uploads keeps them until it drops them itself.
        """
        doing = f"remove {prefix or 'unfinished files'} from"
        self._refuse_if_read_only(doing)
        if prefix:
            self._check_lease(prefix, doing)
        dropped = writers.sweep(self._scratch / "writers")
        try:
            if prefix:
                return dropped + sweeping.drop_uploads(self._ask, self._below(check_name(prefix)), doing)
            return dropped + sweeping.drop_given_up(self._ask, self._below(""), self._lease_key, doing)
        except StorageError as error:
            logger.info("Uploads that were not ended stay: %s", error)
            return dropped

    @property
    def _ask(self) -> Requests:
        """The requests; a child process that was forked has connections of its own."""
        if self._process != os.getpid():
            self._requests, self._process = self._connect(), os.getpid()
        return self._requests

    def _connect(self) -> Requests:
        return Requests(self._address, self._endpoint, region(), self._limits)

    def _key(self, name: str) -> str:
        return self._address.key(check_name(name))

    def _below(self, prefix: str) -> str:
        """What the keys of all in a folder begin with."""
        start = self._address.key(prefix)
        return f"{start.rstrip('/')}/" if start else ""

    def _name(self, key: str) -> str:
        return key[len(self._below("")) :]

    def _lease_key(self, prefix: str) -> str:
        return self._address.key(f"{PRIVATE}/leases/{flat_name(prefix)}")

    def _found(self, name: str) -> Found:
        """What is known of a file.

        Raises:
            NotFound: there is none.
        """
        found = self._ask.find(self._key(name), f"read {name} in")
        if found is None:
            raise self._absent(name)
        return found

    def _absent(self, name: str) -> NotFound:
        return NotFound(f"{name} is not in the store {self.url}.")

    def _copy_of(self, name: str, num_bytes: int, etag: str) -> str:
        """The key in the cache of a file with this content."""
        return json.dumps([self._endpoint.url, self.url, name, num_bytes, etag])

    def _fetch(self, name: str, anew: bool) -> Path:
        found = self._found(name)
        key = self._copy_of(name, found.num_bytes, found.etag)
        if anew:
            self._cache.drop(key)
        return self._cache.entry(key, found.num_bytes, lambda new: self._download(name, found, new)) / _last(name)

    def _fetch_folder(self, prefix: str, names: list[str], anew: bool) -> Path:
        found = {name: self._found(f"{prefix}/{name}") for name in names}
        key = json.dumps([self._endpoint.url, self.url, prefix, [(name, *each[:2]) for name, each in found.items()]])
        if anew:
            self._cache.drop(key)

        def fill(folder: Path) -> None:
            for name, each in found.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                self._download(f"{prefix}/{name}", each, (folder / name).parent)

        return self._cache.entry(key, sum(each.num_bytes for each in found.values()), fill, keep=True)

    def _download(self, name: str, found: Found, folder: Path) -> None:
        """Write a file under the last part of its name."""
        path = folder / _last(name)
        download(self._ask, self._key(name), path, found.num_bytes, found.etag, f"read {name} in")

    def _at_rest(self, name: str, fetch: Callable[[], Path]) -> Path:
        """Fetch what may be written anew meanwhile: once more where it was."""
        for _ in range(_TRIES):
            with suppress(Replaced):
                return fetch()
        message = f"Cannot read {name} in the store {self.url}: it is written anew all the time."
        raise StorageError(message)

    def _hash(self, name: str) -> str:
        """The hash of a file that somebody else wrote."""
        sha256 = hashlib.sha256()
        with self.open(name) as file:
            while block := file.read(self._limits.part_bytes):
                sha256.update(block)
        return sha256.hexdigest()

    def _check_conditions(self, doing: str) -> None:
        """Refuse a server that writes although the condition does not hold, before something depends on it."""
        if self._keeps_conditions:
            return
        key = self._address.key(f"{PRIVATE}/conditions")

        def is_refused(condition: str, value: str) -> bool:
            return self._ask.put_if(key, uuid.uuid4().hex.encode(), {condition: value}, doing) is None

        ignored = "If-None-Match"
        if any(is_refused(ignored, "*") for _ in range(2)):  # the first may find nothing there
            ignored = "If-Match"
            if is_refused(ignored, _NO_ETAG):
                self._keeps_conditions = True
                return
        message = (
            f"Cannot {doing} the store {self.url} at {self._endpoint.url}: the server ignores the condition of a write "
            f"({ignored}), so that two writers could not be told apart. Use a newer one: docs/s3.md says which."
        )
        raise StorageError(message)

    def _refuse_if_read_only(self, doing: str) -> None:
        if self.read_only:
            message = (
                f"Cannot {doing} the store {self.url}: it was opened to be read only. "
                "Choose another with --store or MISTUDIO_STORE."
            )
            raise StorageError(message)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn a failure of the disk that files are staged on into an error that says what to do."""
        try:
            yield
        except Exception as error:
            if is_full(error):
                self._cache.empty()
                message = (
                    f"No space left to {doing} the store {self.url}: files are staged in {self._scratch}. What is "
                    "already written stays usable: free some space, or let MISTUDIO_SCRATCH name a folder on a larger "
                    "disk, and run the same command again."
                )
                raise StorageFull(message) from error
            if isinstance(error, OSError) and not isinstance(error, MistudioError) and self._is_inside(error.filename):
                message = (
                    f"Cannot {doing} the store {self.url}: files are staged in {self._scratch}, and {error.strerror}. "
                    "Let MISTUDIO_SCRATCH name a folder that can be written."
                )
                raise StorageError(message) from error
            raise

    def _is_inside(self, filename: object) -> bool:
        return isinstance(filename, str) and Path(filename).is_relative_to(self._scratch)


def _last(name: str) -> str:
    """The last part of a name."""
    return name.rpartition("/")[2]


def _is_below(folder: str, folders: Container[str]) -> bool:
    parts = folder.split("/")
    return any("/".join(parts[:end]) in folders for end in range(1, len(parts) + 1))
