"""The client of MLflow, and the experiment that runs are logged to; both are made by one process at a time."""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Any

from mistudio.tracking.views import experiment_tags
from mistudio.tracking.where import EXPERIMENT, EXPERIMENT_ENV, SQLITE, URI_ENV, database, private_folder, tracking_uri

LOCKED_S = 20.0  # that another process may write to a database of SQLite
# MLflow itself would try for many minutes.
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which is for what a command has to say
}


def connected(store_url: str) -> tuple[Any, str]:
    """A client, and the id of the experiment.

    Raises:
        MistudioError: the database cannot lie where it should.
    """
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # what they say is said once, by us
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    uri = tracking_uri(store_url)
    with _alone(store_url) if uri.startswith(SQLITE) else nullcontext():
        _try_to_write(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return client, _experiment_id(client, store_url)


@contextmanager
def _alone(store_url: str) -> Iterator[None]:
    """Hold a lock meanwhile: processes that make the tables of a database at once leave it half made."""
    with (private_folder(store_url) / "mlflow.lock").open("w") as handle:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _try_to_write(uri: str) -> None:
    """Fail at once where a database of SQLite cannot be written, which MLflow would try again for minutes."""
    path = database(uri)
    if path is not None and path.exists():
        with closing(sqlite3.connect(path, timeout=LOCKED_S, isolation_level=None)) as opened:
            opened.execute("BEGIN IMMEDIATE")
            opened.execute("ROLLBACK")


def _experiment_id(client: Any, store_url: str) -> str:
    """The experiment that is named; ours is made where it is not there."""
    from mlflow.exceptions import MlflowException

    given = os.environ.get(EXPERIMENT_ENV)
    if given:
        return _marked(client, client.get_experiment(given))
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if os.environ.get(URI_ENV) else (private_folder(store_url) / "mlflow").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=experiment_tags({})))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return _marked(client, found)


def _marked(client: Any, experiment: Any) -> str:
    """The id of an experiment, which is given what it lacks: a kind, a description, the view of its runs."""
    tags: Mapping[str, str] = experiment.tags
    for name, value in experiment_tags(tags).items():
        client.set_experiment_tag(experiment.experiment_id, name, value)
    return str(experiment.experiment_id)
