"""MLflow: one run a pipeline and one nested run a step; the only module that imports mlflow.

A step that is found published computes nothing and logs nothing: its figures are on the pipeline's run all
the same. Where the Kubeflow plugin has made a run for the task (``MLFLOW_RUN_ID``), that run is continued.
Where mlflow is not installed, or ``MISTUDIO_TRACKING`` is ``off``, nothing is logged.

Tracking never decides over the work. What MLflow is asked is bounded in time, and where it cannot be reached, or its
database cannot be read or written, that is said in one line and the work goes on without it: ``mistudio mlflow sync``
logs later what was published meanwhile.
"""

import fcntl
import importlib.util
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from mistudio.artifacts import Artifact, JsonScalar, scratch_folder
from mistudio.errors import StorageError
from mistudio.events import emit_metrics
from mistudio.progress import say
from mistudio.redaction import redact

Answer = TypeVar("Answer")

EXPERIMENT = "mistudio"
PARENT_ENV = "MISTUDIO_PARENT_RUN_ID"
_SWITCH_ENV = "MISTUDIO_TRACKING"
_RUN_ENV = "MLFLOW_RUN_ID"
_URI_ENV = "MLFLOW_TRACKING_URI"
_EXPERIMENT_ENV = "MLFLOW_EXPERIMENT_ID"
_MAX_PARAM_CHARS = 500
# Each call is a transaction of some 15 ms: a curve's points go together, as live as anybody looks.
_SEND_EVERY_S = 2.0
_MOST_METRICS = 1000  # that MLflow takes in one call
# How long a run waits for MLflow: making a database takes seconds, on a busy machine many.
_PATIENCE_S = 90.0
_SHARE_OF_WORK = 0.1  # and so much of the time that the work takes
_PATIENCE_AT_THE_END_S = 5.0  # of a process that was told to end
_LOCKED_S = 20.0  # that another process may write to a database of SQLite
_REASON_CHARS = 200
_SQLITE = "sqlite:///"
# MLflow itself would try for many minutes.
_MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


def is_tracking() -> bool:
    """Whether runs are logged."""
    return os.environ.get(_SWITCH_ENV, "on") != "off" and importlib.util.find_spec("mlflow") is not None


def tracking_uri(store_url: str) -> str:
    """``MLFLOW_TRACKING_URI``, else a SQLite file in this machine's private folder for the store.

    Raises:
        StorageError: the file would lie in a folder whose name MLflow would misread.
    """
    given = os.environ.get(_URI_ENV)
    if given:
        return given
    path = _private_folder(store_url) / "mlflow.db"
    if set("?#%") & set(str(path)):
        message = f"MLflow cannot keep its database at {path}: name a folder without ?, # and % as MISTUDIO_SCRATCH."
        raise StorageError(message)
    return f"sqlite:///{path}"


class Connection:
    """What runs that belong together ask of MLflow: each call on a thread of its own, none waited for without end.

    After the first that fails nothing is asked any more.
    """

    def __init__(self) -> None:
        self.failure = ""
        self._begun_s, self._waited_s = time.monotonic(), 0.0

    def ask(self, call: Callable[[], Answer], most_s: float = _PATIENCE_S) -> Answer | None:
        """The answer; None where there is none."""
        if self.failure:
            return None
        answers: list[Answer] = []
        errors: list[BaseException] = []

        def do() -> None:
            try:
                answers.append(call())
            except BaseException as error:  # of MLflow, SQLAlchemy, the file system, ...
                errors.append(error)

        begun = time.monotonic()
        patience = _PATIENCE_S + _SHARE_OF_WORK * (begun - self._begun_s) - self._waited_s
        thread = Thread(target=do, name="mlflow", daemon=True)
        thread.start()
        try:
            thread.join(max(min(patience, most_s), 0.0))
        finally:
            self._waited_s += time.monotonic() - begun
        if errors:
            self._give_up(_reason(errors[0]))
        elif thread.is_alive():
            self._give_up(f"no answer in {self._waited_s:.0f} s")
        return answers[0] if answers else None

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        text = f"MLflow cannot be used ({reason}). The work goes on; log it later with: mistudio mlflow sync"
        say(text, logging.WARNING)


class Run:
    """One MLflow run, made when something is first logged to it; silent where nothing is tracked.

    Args:
        name: of the run.
        store_url: where the store is; its private folder has the database, unless another is named.
        parent: the run that this one is nested under, or its id.
        run_id: of a run that somebody else has made, and will close.
        began_s: when the work began, in seconds since 1970; now, if not given.
        connection: what it asks by; that of its parent, or one of its own, if not given.
    """

    def __init__(
        self,
        name: str,
        store_url: str,
        parent: "Run | str | None" = None,
        run_id: str | None = None,
        began_s: float | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.name, self._store_url, self._parent = name, store_url, parent
        self._run_id, self._owned = run_id, run_id is None
        above = parent.connection if isinstance(parent, Run) else None
        self.connection: Connection = connection or above or Connection()
        self._client: Any = None
        self._started_ms = _now_ms() if began_s is None else int(began_s * 1000)
        self._waiting: list[Any] = []
        self._sent_s = 0.0

    @property
    def run_id(self) -> str:
        """The id of the run, which is made for it; empty where it cannot be."""
        return (self._run_id or "") if self._open() else ""

    @property
    def is_tracked(self) -> bool:
        """Whether what is logged is kept; makes the run."""
        return self._open()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the settings that tell one run from another."""
        if self._open():
            from mlflow.entities import Param

            flat = [Param(name, redact(str(value))[:_MAX_PARAM_CHARS]) for name, value in params.items()]
            self._ask(lambda: self._client.log_batch(self._run_id, params=flat))

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

            each = [RunTag(name, redact(str(value))) for name, value in tags.items()]
            self._ask(lambda: self._client.log_batch(self._run_id, tags=each))

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a file with the run."""
        if self._open():
            self._ask(lambda: self._client.log_artifact(self._run_id, str(path), folder or None))

    def log_figure(self, figure: Any, name: str) -> None:
        """Keep a matplotlib figure with the run, as an image."""
        if self._open():
            self._ask(lambda: self._client.log_figure(self._run_id, figure, name))

    @contextmanager
    def child(self, name: str) -> Iterator["Run"]:
        """A run nested under this one; both are made when something is first logged to it."""
        with _finishing(Run(name, self._store_url, self)) as run:
            yield run

    def finish(self, status: str = "FINISHED", ended_s: float | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED, if anything was logged and it is ours to close.

        Args:
            status: how it ended.
            ended_s: when, in seconds since 1970; now, if not given.
        """
        most_s = _PATIENCE_AT_THE_END_S if status == "KILLED" else _PATIENCE_S
        self._send(most_s)
        if self._client is not None and self._owned:
            ended_ms = None if ended_s is None else int(ended_s * 1000)
            self._ask(lambda: self._client.set_terminated(self._run_id, status, ended_ms), most_s)

    def _ask(self, call: Callable[[], object], most_s: float = _PATIENCE_S) -> None:
        self.connection.ask(call, most_s)

    def _send(self, most_s: float = _PATIENCE_S) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _MOST_METRICS):
            some = waiting[first : first + _MOST_METRICS]
            self._ask(partial(self._client.log_batch, self._run_id, metrics=some), most_s)
        self._sent_s = time.monotonic()

    def _open(self) -> bool:
        """Make or take up the run; whether anything is tracked at all."""
        if not is_tracking() or self.connection.failure:
            return False
        if self._client is None:
            parent = self._parent.run_id if isinstance(self._parent, Run) else self._parent
            opened = self.connection.ask(lambda: self._opened(parent))
            if opened is None:
                return False
            self._client, self._run_id = opened
        return True

    def _opened(self, parent: str | None) -> tuple[Any, str]:
        """The client, and the id of the run, which is made where there is none."""
        client, experiment = _connected(self._store_url)
        if self._run_id is not None:
            return client, self._run_id
        tags = {"mlflow.parentRunId": parent} if parent else {}
        run = client.create_run(experiment, self._started_ms, {**tags, "mlflow.source.name": "mistudio"}, self.name)
        return client, str(run.info.run_id)


@contextmanager
def pipeline_run(name: str, store_url: str) -> Iterator[Run]:
    """A run for a whole pipeline, or the one that was made for it; steps that are started inside log nested runs."""
    run = Run(name, store_url, run_id=os.environ.get(_RUN_ENV))
    settings: dict[str, str | None] = {}
    if is_tracking():
        run_id = run.run_id
        # What this process could not reach the steps need not wait for.
        settings = {PARENT_ENV: run_id, _URI_ENV: tracking_uri(store_url), _RUN_ENV: None} if run_id else _OFF
    with _environment(settings), _finishing(run):
        yield run


_OFF: dict[str, str | None] = {_SWITCH_ENV: "off"}


@contextmanager
def step_run(step: str, store_url: str) -> Iterator[Run]:
    """A run for one step: the one that Kubeflow's plugin made, else a new one under the pipeline's."""
    with _finishing(Run(step, store_url, os.environ.get(PARENT_ENV), os.environ.get(_RUN_ENV))) as run:
        yield run


@contextmanager
def past_run(name: str, store_url: str, connection: Connection, began_s: float, ended_s: float) -> Iterator[Run]:
    """A run for work that was done before, between these times in seconds since 1970.

    Raises:
        StorageError: MLflow cannot be used.
    """
    run = Run(name, store_url, began_s=began_s, connection=connection)
    yield run
    run.finish(ended_s=ended_s)
    _refuse_failed(connection)


def logged_digests(store_url: str, connection: Connection) -> set[tuple[str, str]]:
    """Step and digest of each artifact that a step's own run in MLflow names.

    Raises:
        StorageError: MLflow cannot be used.
    """
    found = connection.ask(lambda: _logged(*_connected(store_url)))
    _refuse_failed(connection)
    return found or set()


def _logged(client: Any, experiment: str) -> set[tuple[str, str]]:
    digests: set[tuple[str, str]] = set()
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            tags = run.data.tags
            steps = [name.removesuffix(".digest") for name in tags if name.endswith(".digest")]
            # A pipeline's run names what its steps published, and says of each whether it was found.
            digests |= {(step, tags[f"{step}.digest"]) for step in steps if f"{step}.found" not in tags}
        token = page.token
        if not token:
            return digests


def _refuse_failed(connection: Connection) -> None:
    if connection.failure:
        message = f"MLflow cannot be used ({connection.failure}): mend that, or name another as {_URI_ENV}."
        raise StorageError(message)


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


def _connected(store_url: str) -> tuple[Any, str]:
    """A client, and the id of the experiment; both are made by one process at a time."""
    for name, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # what they say is said once, by us
        logging.getLogger(name).setLevel(logging.ERROR)
    from mlflow.tracking import MlflowClient

    uri = tracking_uri(store_url)
    with _alone(store_url) if uri.startswith(_SQLITE) else nullcontext():
        _try_to_write(uri)
        client = MlflowClient(tracking_uri=uri)
        return client, _experiment_id(client, store_url)


@contextmanager
def _alone(store_url: str) -> Iterator[None]:
    """Hold a lock meanwhile: processes that make the tables of a database at once leave it half made."""
    with (_private_folder(store_url) / "mlflow.lock").open("w") as handle:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _try_to_write(uri: str) -> None:
    """Fail at once where a database of SQLite cannot be written, which MLflow would try again for minutes."""
    path = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    if uri.startswith(_SQLITE) and path.exists():
        with closing(sqlite3.connect(path, timeout=_LOCKED_S, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")


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
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def _reason(error: BaseException) -> str:
    """The first line of what an error says, or of what lies behind it."""
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_REASON_CHARS]


def _private_folder(store_url: str) -> Path:
    folder = scratch_folder(store_url)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _now_ms() -> int:
    return int(time.time() * 1000)
