"""MLflow: one run a pipeline and one nested run a step; the only module that imports mlflow.

A step that is found published computes nothing and logs nothing: its figures are on the pipeline's run all
the same. Where the Kubeflow plugin has made a run for the task (``MLFLOW_RUN_ID``), that run is continued.
Where mlflow is not installed, or ``MISTUDIO_TRACKING`` is ``off``, nothing is logged.
"""

import importlib.util
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistudio.artifacts import Artifact, JsonScalar, scratch_folder
from mistudio.events import emit_metrics
from mistudio.redaction import redact

logger = logging.getLogger(__name__)

EXPERIMENT = "mistudio"
PARENT_ENV = "MISTUDIO_PARENT_RUN_ID"
_RUN_ENV = "MLFLOW_RUN_ID"
_URI_ENV = "MLFLOW_TRACKING_URI"
_EXPERIMENT_ENV = "MLFLOW_EXPERIMENT_ID"
_MAX_PARAM_CHARS = 500
# Each call is a transaction of some 15 ms: a curve's points go together, as live as anybody looks.
_SEND_EVERY_S = 2.0
_MOST_METRICS = 1000  # that MLflow takes in one call


def is_tracking() -> bool:
    """Whether runs are logged."""
    return os.environ.get("MISTUDIO_TRACKING", "on") != "off" and importlib.util.find_spec("mlflow") is not None


def tracking_uri(store_url: str) -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in this machine's private folder for the store."""
    return os.environ.get(_URI_ENV) or f"sqlite:///{_private_folder(store_url) / 'mlflow.db'}"


class Run:
    """One MLflow run, made when something is first logged to it; silent where nothing is tracked."""

    def __init__(self, name: str, store_url: str, parent: "Run | str | None" = None, run_id: str | None = None) -> None:
        self.name, self._store_url, self._parent = name, store_url, parent
        self._run_id, self._owned = run_id, run_id is None
        self._client: Any = None
        self._started_ms = _now_ms()
        self._waiting: list[Any] = []
        self._sent_s = 0.0

    @property
    def run_id(self) -> str:
        """The id of the run; makes the run."""
        self._open()
        return self._run_id or ""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the settings that tell one run from another."""
        if self._open():
            from mlflow.entities import Param

            flat = [Param(name, redact(str(value))[:_MAX_PARAM_CHARS]) for name, value in params.items()]
            self._client.log_batch(self._run_id, params=flat)

    def log_metrics(self, metrics: Mapping[str, JsonScalar], step: int = 0) -> None:
        """Log the numbers among ``metrics``, as an event and to MLflow, there with others of the last two seconds."""
        emit_metrics(self.name, metrics, step)
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if numbers and self._open():
            from mlflow.entities import Metric

            self._waiting += [Metric(name, float(value), _now_ms(), step) for name, value in numbers.items()]
            if time.monotonic() - self._sent_s > _SEND_EVERY_S:
                self._send()

    def log_artifact_of(self, step: str, artifact: Artifact) -> None:
        """Tag the run with the place and digest of what a step published."""
        self.set_tags({f"{step}.uri": artifact.uri, f"{step}.digest": artifact.digest})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        if self._open():
            from mlflow.entities import RunTag

            self._client.log_batch(
                self._run_id, tags=[RunTag(name, redact(str(value))) for name, value in tags.items()]
            )

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a file with the run."""
        if self._open():
            self._client.log_artifact(self._run_id, str(path), folder or None)

    def log_figure(self, figure: Any, name: str) -> None:
        """Keep a matplotlib figure with the run, as an image."""
        if self._open():
            self._client.log_figure(self._run_id, figure, name)

    @contextmanager
    def child(self, name: str) -> Iterator["Run"]:
        """A run nested under this one; both are made when something is first logged to it."""
        with _finishing(Run(name, self._store_url, self)) as run:
            yield run

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED, if anything was logged and it is ours to close."""
        self._send()
        if self._client is not None and self._owned:
            self._client.set_terminated(self._run_id, status)

    def _send(self) -> None:
        for first in range(0, len(self._waiting), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=self._waiting[first : first + _MOST_METRICS])
        self._waiting.clear()
        self._sent_s = time.monotonic()

    def _open(self) -> bool:
        """Make or take up the run; whether anything is tracked at all."""
        if not is_tracking():
            return False
        if self._client is None:
            self._client = _client(self._store_url)
            if self._run_id is None:
                parent = self._parent.run_id if isinstance(self._parent, Run) else self._parent
                tags = {"mlflow.parentRunId": parent} if parent else {}
                run = self._client.create_run(
                    _experiment_id(self._client, self._store_url),
                    self._started_ms,
                    {**tags, "mlflow.source.name": "mistudio"},
                    self.name,
                )
                self._run_id = run.info.run_id
        return True


@contextmanager
def pipeline_run(name: str, store_url: str) -> Iterator[Run]:
    """A run for a whole pipeline, or the one that was made for it; steps that are started inside log nested runs."""
    run = Run(name, store_url, run_id=os.environ.get(_RUN_ENV))
    settings: dict[str, str | None] = {}
    if is_tracking():
        settings = {PARENT_ENV: run.run_id, _URI_ENV: tracking_uri(store_url), _RUN_ENV: None}
    with _environment(settings), _finishing(run):
        yield run


@contextmanager
def step_run(step: str, store_url: str) -> Iterator[Run]:
    """A run for one step: the one that Kubeflow's plugin made, else a new one under the pipeline's."""
    with _finishing(Run(step, store_url, os.environ.get(PARENT_ENV), os.environ.get(_RUN_ENV))) as run:
        yield run


@contextmanager
def _finishing(run: Run) -> Iterator[Run]:
    try:
        yield run
    except BaseException as error:
        run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.finish()


@contextmanager
def _environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Have these variables until the end; None: not have them."""
    before = {name: os.environ.get(name) for name in settings}
    _set_variables(settings)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _client(store_url: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri(store_url))


def _experiment_id(client: Any, store_url: str) -> str:
    from mlflow.exceptions import MlflowException

    given = os.environ.get(_EXPERIMENT_ENV)
    if given:
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    location = None if os.environ.get(_URI_ENV) else (_private_folder(store_url) / "mlflow").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:  # another process was first
        return str(client.get_experiment_by_name(name).experiment_id)


def _private_folder(store_url: str) -> Path:
    folder = scratch_folder(store_url)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _now_ms() -> int:
    return int(time.time() * 1000)
