"""Whole files to and from a bucket: in parts that are on their way side by side, with few of them in memory."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from minio.datatypes import Part

from mistudio.artifacts.s3.requests import Requests

_PartT = TypeVar("_PartT")


def upload(
    requests: Requests,
    key: str,
    path: Path,
    num_bytes: int,
    sha256: str,
    doing: str,
    before: Callable[[], None] = lambda: None,
) -> str:
    """Send a file; the object appears at once when all of it is there. Its ETag.

    Args:
        requests: of the bucket.
        key: of the object.
        path: of the file.
        num_bytes: its size.
        sha256: its hash, which the object carries.
        doing: what is done, for messages.
        before: called just before the object appears, which it does not if that raises.

    Raises:
        StorageError: the server cannot be reached or refuses it; nothing appears then.
    """
    part_bytes = requests.limits.part_of(num_bytes)
    with path.open("rb") as file:
        if num_bytes <= part_bytes:
            before()
            return requests.put(key, file.read(), doing, sha256)
        upload_id = requests.begin_upload(key, sha256, doing)
        try:
            parts = _send_parts(requests, key, upload_id, file.fileno(), num_bytes, part_bytes, doing)
            before()
            return requests.complete_upload(key, upload_id, parts, sha256, doing)
        except BaseException:
            _drop(requests, key, upload_id, doing)
            raise


def download(requests: Requests, key: str, path: Path, num_bytes: int, etag: str, doing: str) -> None:
    """Write the object of this ETag to a new file.

    Raises:
        Replaced: it was written anew, or removed, since its ETag was read.
        OSError: the file cannot be written.
        StorageError: the server cannot be reached.
    """
    part_bytes = requests.limits.part_of(num_bytes)
    with path.open("wb") as file:

        def receive(asking: Requests, start: int) -> None:
            length = min(part_bytes, num_bytes - start)
            asking.receive(key, start, length, etag, lambda at, block: _write(file.fileno(), block, at), doing)

        _side_by_side(requests, range(0, num_bytes, part_bytes), receive)


def _send_parts(
    requests: Requests, key: str, upload_id: str, file: int, num_bytes: int, part_bytes: int, doing: str
) -> list[Part]:
    """Send all parts of a file; each is read when its turn comes."""

    def send(asking: Requests, number: int) -> Part:
        start = number * part_bytes
        data = _read(file, min(part_bytes, num_bytes - start), start)
        return asking.upload_part(key, upload_id, number + 1, data, doing)

    return _side_by_side(requests, range(-(-num_bytes // part_bytes)), send)


def _side_by_side(requests: Requests, pieces: Iterable[int], work: Callable[[Requests, int], _PartT]) -> list[_PartT]:
    """Do a piece of work for each number, a few at once; the first failure ends all, also those that try again."""
    given_up = threading.Event()
    asking = requests.until(given_up)
    with ThreadPoolExecutor(requests.limits.threads, thread_name_prefix="s3") as pool:
        try:
            futures = [pool.submit(work, asking, piece) for piece in pieces]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _drop(requests: Requests, key: str, upload_id: str, doing: str) -> None:
    """Drop what was sent of a file; where that fails too, what went wrong before is what is to be told."""
    tried_once = threading.Event()
    tried_once.set()
    with suppress(Exception):
        requests.until(tried_once).abort_upload(key, upload_id, doing)


def _read(file: int, length: int, start: int) -> bytes:
    """A part of a file, however many reads that takes."""
    data = os.pread(file, length, start)
    while len(data) < length:
        more = os.pread(file, length - len(data), start + len(data))
        if not more:
            message = "a staged file became shorter while it was sent"
            raise EOFError(message)
        data += more
    return data


def _write(file: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, start)
        view, start = view[written:], start + written
