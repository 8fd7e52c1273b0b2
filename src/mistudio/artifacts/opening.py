"""Opening the store that a URL names."""

import os
from contextlib import suppress
from pathlib import Path
from typing import get_args

from mistudio.artifacts.local import PRIVATE, LocalStore, expanded
from mistudio.artifacts.s3.address import is_s3, parse_address
from mistudio.artifacts.store import Mode, Store
from mistudio.artifacts.urls import default_store_url, local_folder
from mistudio.errors import ConfigError, StorageError
from mistudio.plain_text import shortened


def open_store(url: str = "", mode: Mode = "rw") -> Store:
    """Open the store at ``url``: a folder, as a path or as ``file:PATH``, or ``s3://bucket/prefix``.

    Args:
        url: which; by default :func:`default_store_url`.
        mode: "r" makes nothing, works on a folder that cannot be written, and refuses all that would change it.

    Raises:
        ConfigError: the scheme is unknown, or the environment does not say how to reach a bucket.
        StorageError: the folder cannot be made or written, the bucket not reached; to read, that there is none.
    """
    if mode not in get_args(Mode):
        message = f"mode {shortened(mode)} is unknown: use one of {', '.join(get_args(Mode))}."
        raise ConfigError(message)
    url = url or default_store_url()
    return _bucket(url, mode) if is_s3(url) else LocalStore(_folder(url), mode)


def open_to_read(url: str = "", *, make: bool = False) -> Store:
    """Open the store at ``url``, also where it cannot be written; what is not there is no store.

    One that can be written is opened so that what is worked out about it, such as an index, is kept in it.

    Args:
        url: which; by default :func:`default_store_url`.
        make: Make the store where there is none.

    Raises:
        ConfigError: the scheme is unknown.
        StorageError: there is none.
    """
    url = url or default_store_url()
    if is_s3(url):
        return _bucket(url, "rw", must_be_there=not make)
    folder = expanded(_folder(url))
    if make or os.path.isdir(folder / PRIVATE):
        with suppress(StorageError):
            return LocalStore(folder)
    return LocalStore(folder, "r")


def open_if_there(url: str = "") -> Store | None:
    """Open the store at ``url`` to read, as :func:`open_to_read` does; None where there is none.

    Raises:
        ConfigError: the scheme is unknown.
        StorageError: what is there cannot be opened, or a bucket not be reached.
    """
    url = url or default_store_url()
    if is_s3(url):
        return _bucket(url, "rw")
    return open_to_read(url) if os.path.exists(store_url(url)) else None


def store_url(url: str = "") -> str:
    """The one URL of a store however it was named; it need not exist.

    Raises:
        ConfigError: the scheme is unknown.
    """
    url = url or default_store_url()
    return parse_address(url).url if is_s3(url) else str(expanded(_folder(url)).absolute())


def _bucket(url: str, mode: Mode, *, must_be_there: bool = False) -> Store:
    """The store in a bucket; what talks to it is loaded only here.

    Raises:
        ConfigError: the URL names none, the environment does not say how to reach it, or the client is not installed.
        StorageError: it cannot be reached.
    """
    address = parse_address(url)
    try:
        from mistudio.artifacts.s3.store import S3Store
    except ImportError as error:
        message = f"The store {address.url} needs the client of S3: pip install 'mistudio[s3]'."
        raise ConfigError(message) from error
    return S3Store(address, mode, must_be_there=must_be_there)


def _folder(url: str) -> Path:
    folder = local_folder(url)
    if folder is None:
        message = (
            f"store {shortened(url)} has the unknown scheme {shortened(url.partition(':')[0])}. "
            "Use a folder, as a path or as file:PATH, or s3://bucket/prefix."
        )
        raise ConfigError(message)
    return folder
