"""Whether runs are logged, and where: what the environment says, else a database beside the store."""

import importlib.util
import os
from pathlib import Path

from mistudio.artifacts import scratch_folder
from mistudio.errors import StorageError

EXPERIMENT = "mistudio"
PARENT_ENV = "MISTUDIO_PARENT_RUN_ID"
SWITCH_ENV = "MISTUDIO_TRACKING"
RUN_ENV = "MLFLOW_RUN_ID"
URI_ENV = "MLFLOW_TRACKING_URI"
EXPERIMENT_ENV = "MLFLOW_EXPERIMENT_ID"
SQLITE = "sqlite:///"


def is_tracking() -> bool:
    """Whether runs are logged."""
    return os.environ.get(SWITCH_ENV, "on") != "off" and importlib.util.find_spec("mlflow") is not None


def tracking_uri(store_url: str) -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in this machine's private folder for the store.

    Raises:
        StorageError: the file would lie in a folder whose name MLflow would misread.
    """
    given = os.environ.get(URI_ENV)
    if given:
        return given
    path = private_folder(store_url) / "mlflow.db"
    if set("?#%") & set(str(path)):
        message = f"MLflow cannot keep its database at {path}: name a folder without ?, # and % as MISTUDIO_SCRATCH."
        raise StorageError(message)
    return f"{SQLITE}{path}"


def is_server(uri: str) -> bool:
    """Whether this is the address of an MLflow server, not of a database."""
    return uri.partition("://")[0] in ("http", "https")


def database(uri: str) -> Path | None:
    """The file of a database of SQLite; None for anything else."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def private_folder(store_url: str) -> Path:
    """The folder that this machine has for the store, made where it is not there."""
    folder = scratch_folder(store_url)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
