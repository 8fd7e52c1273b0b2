"""The store interface: files under relative names, written atomically.

Names are POSIX paths relative to the store's root (``sae/0123abcd/sae.safetensors``). Implementations
pass the contract tests in ``tests/contract/test_store.py``.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import platformdirs

from mistudio.errors import ConfigError, InputError

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
NAME_PATTERN = rf"{_PART}(/{_PART})*"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")  # one letter is a drive, not a scheme


class Store(Protocol):
    """Files under relative names. A reader sees a whole file or none."""

    url: str

    def stage(self, name: str) -> AbstractContextManager[Path]:
        """Give a local path to write to; on a clean exit the file appears under ``name`` at once.

        One writer at a time: hold the lock of the prefix.

        Raises:
            StorageFull: the disk is full.
            StorageError: the store cannot be written.
        """
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless one exists under ``name``; say whether it was written."""
        ...

    def fetch(self, name: str) -> Path:
        """A local, memory-mappable file with the content of ``name``.

        Raises:
            NotFound: there is no such file.
        """
        ...

    def size(self, name: str) -> int | None:
        """Size in bytes, or None where there is no such file."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Names of all files below the folder ``prefix``, sorted; unfinished writes are not listed.

        A prefix is whole parts of a name: ``sae/ab`` does not list ``sae/abc/x``, nor the file ``sae/ab``.
        """
        ...

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below the folder ``prefix``, sorted; what is in them is not looked at."""
        ...

    def remove(self, name: str) -> None:
        """Remove one file; a file that is not there is no error."""
        ...

    def lock(self, prefix: str) -> AbstractContextManager[None]:
        """Hold ``prefix`` for one writer; released when its process ends, however it ends."""
        ...


def check_name(name: str) -> str:
    """Return ``name`` if it stays inside the store.

    Raises:
        InputError: the name is absolute, has empty or dotted parts, or odd characters.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        message = (
            f"{name!r} is not a name in the store: use letters, digits, '.', '_' and '-' "
            "(not first '.' or '-'), with '/' between folders."
        )
        raise InputError(message)
    return name


def default_store_url() -> str:
    """``MISTUDIO_STORE``, else a folder in the user's data directory."""
    return os.environ.get("MISTUDIO_STORE") or str(platformdirs.user_data_path("mistudio") / "store")


def open_store(url: str = "") -> Store:
    """Open the store at ``url``: a folder, as a path or as ``file:PATH``.

    Raises:
        ConfigError: the scheme is unknown.
        StorageError: the folder cannot be made or written.
    """
    from mistudio.artifacts.local import LocalStore

    url = url or default_store_url()
    scheme, colon, rest = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return LocalStore(Path(url))
    if scheme == "file":
        return LocalStore(Path(rest.removeprefix("//")))
    message = f"store {url!r} has the unknown scheme {scheme!r}. Use a folder, as a path or as file:PATH."
    raise ConfigError(message)
