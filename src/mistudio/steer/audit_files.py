"""The files of an audit log: where they lie, and how their ends are read and mended.

Beside ``audit.jsonl`` lie the files that were put aside (``audit.jsonl.000001``, the oldest first), what there was of a
line that was only written in part (``audit.jsonl.torn-00000017``), and what writers lock (``audit.jsonl.lock``).
"""

import os
import re
from pathlib import Path

from mistudio.artifacts.disk import sync

_BLOCK = 1 << 16
_MODE = 0o600


def open_log(path: Path) -> int:
    """Open a log to read it and to append to it; made where there is none, and a link is refused."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)


def state_of(handle: int) -> tuple[int, int, int]:
    """What becomes another when somebody writes to a file, or puts another in its place."""
    status = os.fstat(handle)
    return status.st_ino, status.st_size, status.st_mtime_ns


def lock_path(path: Path) -> Path:
    """The file that the writers of a log lock."""
    return path.with_name(f"{path.name}.lock")


def torn_path(path: Path, number: int) -> Path:
    """Where that is kept which was cut off before the line of this number was written."""
    return path.with_name(f"{path.name}.torn-{number:08d}")


def rotated_path(path: Path, number: int) -> Path:
    """Where the file of this number is put aside."""
    return path.with_name(f"{path.name}.{number:06d}")


def rotated_paths(path: Path) -> list[Path]:
    """The files that were put aside, the oldest first."""
    pattern = re.compile(rf"{re.escape(path.name)}\.(\d{{6,}})")
    found = [(int(match[1]), each) for each in path.parent.iterdir() if (match := pattern.fullmatch(each.name))]
    return [each for _, each in sorted(found)]


def whole_bytes(handle: int, size: int) -> int:
    """How many of the first ``size`` bytes of a file are lines with an end."""
    end = size
    while end > 0:
        start = max(end - _BLOCK, 0)
        place = os.pread(handle, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


def line_before(handle: int, end: int) -> bytes:
    """The line that ends at ``end``, without its end."""
    start = whole_bytes(handle, end - 1)
    return os.pread(handle, end - 1 - start, start)


def first_line(handle: int) -> bytes:
    """The first line, which is a short one, without its end."""
    return os.pread(handle, _BLOCK, 0).partition(b"\n")[0]


def cut_off(handle: int, end: int, kept: Path) -> None:
    """Cut a file at ``end``; what was behind it is in the file ``kept`` before."""
    content = os.pread(handle, os.fstat(handle).st_size - end, end)
    kept.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(kept, flags, _MODE), "wb") as file:
        file.write(content)
    sync(kept)
    sync(kept.parent)
    os.ftruncate(handle, end)
    os.fsync(handle)
