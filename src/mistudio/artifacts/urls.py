"""What the URL of a store names, without opening it."""

import os
import re
from pathlib import Path

import platformdirs

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")  # one letter is a drive, not a scheme


def default_store_url() -> str:
    """``MISTUDIO_STORE``, else a folder in the user's data directory."""
    return os.environ.get("MISTUDIO_STORE") or str(platformdirs.user_data_path("mistudio") / "store")


def local_folder(url: str) -> Path | None:
    """The folder that a store's URL names; None if it names no folder.

    Raises:
        ConfigError: it is the URL of a folder, and names none on this machine.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return Path(url)
    if scheme.lower() != "file":
        return None
    path = rest.removeprefix("//")
    if not path or (path != rest and path[:1] not in ("/", "~")):  # behind two slashes stands a host
        message = (
            f"store {shortened(url)} names no folder on this machine. Write the folder as a path, or as file:/PATH."
        )
        raise ConfigError(message)
    return Path(path)
