"""Hashes of files: taken while they are written, or read in blocks."""

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@lru_cache(maxsize=65_536)
def hash_once(path: Path, size: int, changed_ns: int) -> str:
    """The hash of a file, remembered for as long as its size and time of change stay the same."""
    return hash_file(path)


def file_state(path: Path) -> tuple[int, ...]:
    """What becomes another when a file is written or replaced, be its size and time of change set to the same.

    Raises:
        OSError: there is no such file.
    """
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class HashingWriter(io.BufferedIOBase):
    """A new file that is written from start to end, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """The hash of what was written so far, in hex."""
        return self._sha256.hexdigest()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: "Buffer") -> int:
        """Append bytes."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._sha256.update(view)
        self.num_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.num_bytes

    def flush(self) -> None:
        """Hand everything written to the operating system."""
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """End the file."""
        try:
            super().close()
        finally:
            self._file.close()
