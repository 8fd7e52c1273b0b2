"""An object that is read where one wants it: seekable, and only what is read is fetched."""

import io
from typing import TYPE_CHECKING

from mistudio.artifacts.s3.requests import Found, Requests
from mistudio.artifacts.s3.trouble import Replaced
from mistudio.errors import StorageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_AHEAD_BYTES = 1 << 18  # a request costs about as much as so many bytes
_MOST_AHEAD_BYTES = 1 << 23


def open_ranged(requests: Requests, key: str, found: Found, doing: str) -> io.BufferedReader:
    """Open the object as it was when it was found."""
    return io.BufferedReader(_Object(requests, key, found, doing), _AHEAD_BYTES)


class _Object(io.RawIOBase):
    """An object, read by ranges. One that is read from start to end is fetched in ever longer ones, up to 8 MiB."""

    def __init__(self, requests: Requests, key: str, found: Found, doing: str) -> None:
        self._requests, self._key, self._found, self._doing = requests, key, found, doing
        self._at = 0
        self._ahead = memoryview(b"")  # what was fetched and not read yet, from here on
        self._ahead_bytes = _AHEAD_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.num_bytes}[whence]
        at = max(start + offset, 0)
        if at != self._at:
            self._at, self._ahead, self._ahead_bytes = at, memoryview(b""), _AHEAD_BYTES
        return at

    def readinto(self, buffer: "Buffer", /) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._found.num_bytes - self._at)
        if wanted <= 0:
            return 0
        if not self._ahead:
            self._fetch(wanted)
        taken = min(wanted, len(self._ahead))
        view[:taken] = self._ahead[:taken]
        self._ahead = self._ahead[taken:]
        self._at += taken
        return taken

    def readall(self) -> bytes:
        """The rest, fetched at once."""
        rest = max(self._found.num_bytes - self._at, 0)
        data = bytearray(self._ahead[:rest])
        data += self._range(self._at + len(data), rest - len(data))
        self._at, self._ahead = self._at + rest, memoryview(b"")
        return bytes(data)

    def _fetch(self, wanted: int) -> None:
        length = min(max(wanted, self._ahead_bytes), self._found.num_bytes - self._at)
        self._ahead = memoryview(self._range(self._at, length))
        self._ahead_bytes = min(2 * self._ahead_bytes, _MOST_AHEAD_BYTES)

    def _range(self, start: int, length: int) -> bytes:
        data = bytearray(length)

        def take(at: int, block: bytes) -> None:
            data[at - start : at - start + len(block)] = block

        try:
            self._requests.receive(self._key, start, length, self._found.etag, take, self._doing)
        except Replaced as error:
            place = self._requests.place
            message = (
                f"Cannot {self._doing} the store {place.url}: it was written anew or removed meanwhile. Start again."
            )
            raise StorageError(message) from error
        return bytes(data)
