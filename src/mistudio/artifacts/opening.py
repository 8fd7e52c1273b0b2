"""Opening the store that a URL names."""

import os
import re
from pathlib import Path

import platformdirs

from mistudio.artifacts.local import LocalStore
from mistudio.artifacts.store import Mode, Store
from mistudio.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")  # one letter is a drive, not a scheme


def default_store_url() -> str:
    """``MISTUDIO_STORE``, else a folder in the user's data directory."""
    return os.environ.get("MISTUDIO_STORE") or str(platformdirs.user_data_path("mistudio") / "store")


def open_store(url: str = "", mode: Mode = "rw") -> Store:
    """Open the store at ``url``: a folder, as a path or as ``file:PATH``.

    Args:
        url: which; by default :func:`default_store_url`.
        mode: "r" makes nothing, works on a folder that cannot be written, and refuses all that would change it.

    Raises:
        ConfigError: the scheme is unknown.
        StorageError: the folder cannot be made or written; to read, that there is none.
    """
    url = url or default_store_url()
    folder = local_folder(url)
    if folder is not None:
        return LocalStore(folder, mode)
    message = (
        f"store {url!r} has the unknown scheme {url.partition(':')[0]!r}. Use a folder, as a path or as file:PATH."
    )
    raise ConfigError(message)


def local_folder(url: str) -> Path | None:
    """The folder that a store's URL names; None if it names no folder."""
    scheme, colon, rest = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return Path(url)
    return Path(rest.removeprefix("//")) if scheme == "file" else None
