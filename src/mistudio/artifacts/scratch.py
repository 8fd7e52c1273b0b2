"""Where this machine keeps what it works out beside a store, and what no other machine needs to see.

Logs of runs, a language model's answers, facts of models, the MLflow database, the index of the catalogue: all can be
lost without loss to what is published.
"""

import hashlib
import os
from pathlib import Path

import platformdirs

from mistudio.artifacts.local import PRIVATE, expanded
from mistudio.artifacts.s3.address import endpoint, is_s3, parse_address
from mistudio.artifacts.store import Store
from mistudio.artifacts.urls import default_store_url, local_folder

_KEY_DIGITS = 16


def scratch_folder(store: Store | str) -> Path:
    """The private folder of this machine for a store, given open or by its URL; it need not exist yet.

    For a local store that is written it lies in the store itself. For any other it lies in the user's cache directory,
    under a key of the store's URL. ``MISTUDIO_SCRATCH`` names another folder for all of them.
    """
    url = (store if isinstance(store, str) else store.url) or default_store_url()
    given = os.environ.get("MISTUDIO_SCRATCH")
    folder = local_folder(url)
    if folder is not None:
        folder = expanded(folder).absolute()
        if not given and _is_written(store, folder):
            return folder / PRIVATE
    base = expanded(Path(given)).absolute() if given else platformdirs.user_cache_path("mistudio") / "stores"
    key = hashlib.sha256(_named(url, folder).encode()).hexdigest()[:_KEY_DIGITS]
    return base / key


def _named(url: str, folder: Path | None) -> str:
    """The one name of a store: two servers may have buckets of the same name."""
    if folder is not None:
        return str(folder)
    return f"{endpoint().url} {parse_address(url).url}" if is_s3(url) else url.rstrip("/")


def machine_folder() -> Path:
    """The private folder of this machine for what belongs to no store, as copies of models; it need not exist yet."""
    given = os.environ.get("MISTUDIO_SCRATCH")
    return expanded(Path(given)).absolute() if given else platformdirs.user_cache_path("mistudio")


def _is_written(store: Store | str, folder: Path) -> bool:
    """Whether a local store is one to write to; a folder that is not there yet will be."""
    if not isinstance(store, str):
        return not store.read_only
    return os.access(folder, os.W_OK) or not os.path.exists(folder)
