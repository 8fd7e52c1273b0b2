"""Files of recorded traffic, in time order, each as a file on this machine: from a folder or from a bucket.

KServe's logger names objects by the id of a request and says nothing of time in them: so when a file was last written
counts as the time of what is in it. A bucket is reached as a store is, with the same variables of the environment; one
object at a time is copied to this machine.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mistudio.artifacts.s3.address import endpoint, is_s3, parse_address, region
from mistudio.artifacts.s3.limits import Limits
from mistudio.artifacts.urls import local_folder
from mistudio.errors import ConfigError, InputError, StorageError
from mistudio.paths import given_path
from mistudio.plain_text import shortened

if TYPE_CHECKING:
    from mistudio.artifacts.s3.requests import Listed, Requests

SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")
MAX_FILES = 1_000_000
MAX_FILE_BYTES = 1 << 30
_DOING = "read recorded traffic in"


class RecordedFile(NamedTuple):
    """A file of recorded traffic.

    Attributes:
        name: for messages.
        suffix: in small letters.
        time: when it was last written; seconds since 1970.
        num_bytes: of it.
        open: gives its path while it is read.
    """

    name: str
    suffix: str
    time: float
    num_bytes: int
    open: Callable[[], AbstractContextManager[Path]]


def recorded_files(url: str) -> list[RecordedFile]:
    """The files at a path or ``s3://`` address, the oldest first.

    Raises:
        InputError: there is none.
        ConfigError: the address is none, or the client of S3 is not installed.
        StorageError: the bucket cannot be read.
    """
    found = list(_in_bucket(url) if is_s3(url) else _in_folder(_given(url)))
    if not found:
        message = f"There is no recorded traffic at {shortened(url)}: it holds no file with {', '.join(SUFFIXES)}."
        raise InputError(message)
    if len(found) > MAX_FILES:
        message = f"There are more than {MAX_FILES:,} files at {shortened(url)}: name a folder in it."
        raise InputError(message)
    return sorted(found, key=lambda each: (each.time, each.name))


def _given(url: str) -> Path:
    """The path that was given.

    Raises:
        InputError: no file can be there, or it is an address that is not read.
    """
    path = local_folder(url) if url else None
    if path is None:
        message = f"recorded traffic cannot be at {shortened(url)}: give a path, or s3://bucket/prefix."
        raise InputError(message)
    return given_path(path, "recorded traffic")


def _in_folder(path: Path) -> Iterator[RecordedFile]:
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        yield _local(path, path.name)
        return
    root = Path(os.path.realpath(path))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in names:
            found = Path(folder) / name
            if name.startswith(".") or found.suffix.lower() not in SUFFIXES:
                continue
            with suppress(OSError):  # links into what others have
                if Path(os.path.realpath(found)).is_relative_to(root) and found.is_file():
                    yield _local(found, found.relative_to(root).as_posix())


def _local(path: Path, name: str) -> RecordedFile:
    status = path.stat()
    return RecordedFile(name, path.suffix.lower(), status.st_mtime, status.st_size, lambda: nullcontext(path))


def _in_bucket(url: str) -> Iterator[RecordedFile]:
    try:
        from mistudio.artifacts.s3.requests import Requests
    except ImportError as error:
        message = f"{shortened(url)} needs the client of S3: pip install 'mistudio[s3]'."
        raise ConfigError(message) from error
    address = parse_address(url)
    requests = Requests(address, endpoint(), region(), Limits())
    for each in requests.objects(address.prefix, _DOING):
        name = each.key.removeprefix(address.prefix).lstrip("/") or each.key
        is_below = not address.prefix or each.key.startswith(f"{address.prefix}/") or each.key == address.prefix
        suffix = os.path.splitext(each.key)[1].lower()
        if is_below and suffix in SUFFIXES:
            yield RecordedFile(name, suffix, each.modified, each.num_bytes, _copier(requests, each, suffix))


def _copier(requests: "Requests", listed: "Listed", suffix: str) -> Callable[[], AbstractContextManager[Path]]:
    from mistudio.artifacts.s3.trouble import Replaced

    @contextmanager
    def copied() -> Iterator[Path]:
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            etag = listed.etag.replace('"', "")

            def take(_place: int, block: bytes) -> None:  # in the order of places, also where it was tried again
                file.write(block)

            try:
                requests.receive(listed.key, 0, listed.num_bytes, etag, take, _DOING)
            except Replaced as error:
                message = f"{listed.key} was written anew or removed while it was read. Start again."
                raise StorageError(message) from error
            file.flush()
            yield Path(file.name)

    return copied
