"""What a store in a folder asks of the disk, whatever file system it is."""

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}  # file systems that write a folder's entries at once anyway
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}
_MOST_FLAT_CHARS = 200  # a disk takes 255 bytes, of which a file that is created needs some for itself
_HEAD_CHARS = 120


def flat_name(name: str) -> str:
    """A name without folders, which a disk takes; "@" is in no name, so no two names become one."""
    flat = name.replace("/", "@")
    if len(flat) <= _MOST_FLAT_CHARS:
        return flat
    return f"{flat[:_HEAD_CHARS]}@@{hashlib.sha256(flat.encode()).hexdigest()}"


def open_lock(path: Path) -> BinaryIO:
    """Open the file of a lock, which nothing is written to; a link is refused."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")


def link_unless_taken(staged: Path, target: Path) -> bool:
    """Give a file its name, unless another has it: unlike a rename, a link fails then.

    Raises:
        OSError: among others, the file system has no hard links.
    """
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        why = "the file system has no hard links, which publishing needs"
        raise OSError(error.errno, why, str(target)) from error
    return True


def drop_staged(staged: Path) -> None:
    """Remove a staged file, unless that fails: what went wrong before is what is to be told."""
    with suppress(OSError):
        staged.unlink()


def open_to_readers(path: Path) -> None:
    """Let a file be read by all who may look into its folder: safetensors writes files that its user alone may read."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def removed_empty(folder: Path) -> bool:
    """Remove a folder, if it is empty; say whether it was."""
    try:
        folder.rmdir()
    except OSError:  # not empty, or another process was first
        return False
    return True


def is_full(error: Exception) -> bool:
    """Whether a disk is full; safetensors reports it in its own exception, by the text alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {code})" in str(error) for code in _FULL)


def sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
