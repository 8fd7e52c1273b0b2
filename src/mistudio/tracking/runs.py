"""One run of MLflow, made when something is first logged to it, or made by somebody else and continued."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mistudio.artifacts import Artifact, JsonScalar
from mistudio.events import emit_metrics
from mistudio.redaction import redact
from mistudio.tracking import datasets as logged_datasets
from mistudio.tracking import models
from mistudio.tracking.client import connected
from mistudio.tracking.connection import Connection
from mistudio.tracking.datasets import Dataset
from mistudio.tracking.models import Model
from mistudio.tracking.views import NOTE
from mistudio.tracking.where import is_tracking

_MAX_PARAM_CHARS = 500
_MAX_TAG_CHARS = 7_900  # MLflow cuts at 8,000, wherever that is
_MAX_TITLE_CHARS = 200
# Each call is a transaction of some 15 ms: a curve's points go together, as live as anybody looks.
_SEND_EVERY_S = 2.0
_MOST_METRICS = 1000  # that MLflow takes in one call
_PATIENCE_AT_THE_END_S = 5.0  # of a process that was told to end


class Run:
    """One MLflow run, made when something is first logged to it; silent where nothing is tracked.

    Args:
        name: of what runs, such as the step.
        store_url: where the store is; its private folder has the database, unless another is named.
        parent: the run that this one is nested under, or its id.
        run_id: of a run that somebody else has made, and will close.
        began_s: when the work began, in seconds since 1970; now, if not given.
        connection: what it asks by; that of its parent, or one of its own, if not given.
        title: what tells it from other runs of the same name; the name, if not given.
        tags: that it is made with.
    """

    def __init__(
        self,
        name: str,
        store_url: str,
        parent: "Run | str | None" = None,
        run_id: str | None = None,
        began_s: float | None = None,
        connection: Connection | None = None,
        title: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self._store_url, self._parent, self._title = name, store_url, parent, title or name
        self._tags = {"mlflow.source.name": "mistudio", **(tags or {})}
        self._run_id, self._owned = run_id, run_id is None
        above = parent.connection if isinstance(parent, Run) else None
        self.connection: Connection = connection or above or Connection()
        self._client: Any = None
        self._experiment = ""
        self._found_tags: Mapping[str, str] = {}
        self._found_points: dict[str, set[int] | None] = {}  # of a run that is continued, by figure; None: not read yet
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

    def found_tag(self, name: str) -> str:
        """A tag that the run had when it was continued; empty for one that is made here."""
        return self._found_tags.get(name, "") if self._open() else ""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log the settings that tell one run from another."""
        if self._open():
            from mlflow.entities import Param

            flat = [Param(name, redact(str(value))[:_MAX_PARAM_CHARS]) for name, value in params.items()]
            self._ask(lambda: self._client.log_batch(self._run_id, params=flat))

    def log_metrics(self, metrics: Mapping[str, JsonScalar], step: int = 0) -> None:
        """Log the numbers among ``metrics``, as an event and to MLflow, there with others of the last two seconds."""
        emit_metrics(self.name, metrics, step)
        if self._open():
            self._waiting += self._entities(metrics, step)
            if self._waiting and time.monotonic() - self._sent_s > _SEND_EVERY_S:
                self._send()

    def log_model_metrics(self, digest: str, metrics: Mapping[str, JsonScalar], dataset: Dataset | None) -> None:
        """Log figures as those of this run and of an autoencoder, measured on a dataset.

        Args:
            digest: of the autoencoder; where MLflow has no model of it they are those of the run alone.
            metrics: the numbers among them are logged.
            dataset: what they were measured on, if that is known.
        """
        emit_metrics(self.name, metrics)
        if self._open():
            name, of = dataset.key if dataset else (None, None)

            def log() -> None:
                model = models.find(self._client, self._experiment, digest)
                about = {"model_id": model.model_id, "dataset_name": name, "dataset_digest": of} if model else {}
                self._client.log_batch(self._run_id, metrics=self._entities(metrics, 0, **about))
                if model:
                    self._link_model(model.model_id, made=False)

            self._ask(log)

    def log_artifact_of(self, step: str, artifact: Artifact) -> None:
        """Tag the run with the place and digest of what a step published."""
        self.set_tags({f"{step}.uri": artifact.uri, f"{step}.digest": artifact.digest})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        if self._open() and tags:
            from mlflow.entities import RunTag

            each = [RunTag(name, redact(str(value))[:_MAX_TAG_CHARS]) for name, value in tags.items()]
            self._ask(lambda: self._client.log_batch(self._run_id, tags=each))

    def rename(self, title: str) -> None:
        """Call the run otherwise, now that more is known of it."""
        title = redact(title)[:_MAX_TITLE_CHARS]
        if title != self._title and self._open():
            self._title = title
            self._ask(lambda: self._client.update_run(self._run_id, name=title))

    def describe(self, markdown: str) -> None:
        """Have MLflow show a text with the run; what is too long for it ends at a whole line."""
        text = redact(markdown)
        if len(text) > _MAX_TAG_CHARS:
            text = text[:_MAX_TAG_CHARS].rpartition("\n")[0] + "\n"
        self.set_tags({NOTE: text})

    def log_datasets(self, datasets: Sequence[Dataset]) -> None:
        """Say which corpus and activations the run has read."""
        if datasets and self._open():
            self._ask(lambda: logged_datasets.log_datasets(self._client, str(self._run_id), datasets))

    def log_model(self, model: Model, *, made: bool = True) -> None:
        """Log the autoencoder that the run made, without its weights: they lie in the store.

        Args:
            model: the autoencoder; where the experiment has it already, the run is linked to that.
            made: the run is where it comes from.
        """
        if self._open():

            def log() -> None:
                source = self._run_id if made else None
                logged = models.find_or_log(self._client, self._experiment, model, source)
                self._link_model(logged.model_id, made=True)

            self._ask(log)

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
        with finishing(Run(name, self._store_url, self)) as run:
            yield run

    def above(self, run_id: str) -> "Run | None":
        """The run that Kubeflow has made for the pipeline, where this one is nested right under it; not ours to close.

        A task in a loop is nested under the loop, and one of many like it.
        """
        if not run_id or self.found_tag("mlflow.parentRunId") != run_id:
            return None
        return Run(self.name, self._store_url, run_id=run_id, connection=self.connection)

    def finish(self, status: str = "FINISHED", ended_s: float | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED, if anything was logged and it is ours to close.

        Args:
            status: how it ended.
            ended_s: when, in seconds since 1970; now, if not given.
        """
        most_s = _PATIENCE_AT_THE_END_S if status == "KILLED" else None
        self._send(most_s)
        if self._client is not None and self._owned:
            ended_ms = None if ended_s is None else int(ended_s * 1000)
            self._ask(lambda: self._client.set_terminated(self._run_id, status, ended_ms), most_s)

    def _ask(self, call: Callable[[], object], most_s: float | None = None) -> None:
        self.connection.ask(call, most_s)

    def _entities(self, metrics: Mapping[str, JsonScalar], step: int, **about: str | None) -> list[Any]:
        """The numbers among ``metrics``, but points that are there from before the run was continued."""
        from mlflow.entities import Metric

        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        new = {name: value for name, value in numbers.items() if step not in self._points_of(name)}
        return [Metric(name, float(value), _now_ms(), step, **about) for name, value in new.items()]

    def _points_of(self, name: str) -> set[int]:
        """The steps at which a run that is continued has this figure."""
        if self._found_points.get(name, set()) is None:
            history = self.connection.ask(lambda: self._client.get_metric_history(self._run_id, name)) or []
            self._found_points[name] = {int(point.step) for point in history}
        return self._found_points.get(name) or set()

    def _send(self, most_s: float | None = None) -> None:
        waiting, self._waiting = self._waiting, []
        for first in range(0, len(waiting), _MOST_METRICS):
            some = waiting[first : first + _MOST_METRICS]
            self._ask(partial(self._client.log_batch, self._run_id, metrics=some), most_s)
        self._sent_s = time.monotonic()

    def _link_model(self, model_id: str, *, made: bool) -> None:
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        if made:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model_id, 0)])
        else:
            self._client.log_inputs(self._run_id, models=[LoggedModelInput(model_id)])

    def _open(self) -> bool:
        """Make or take up the run; whether anything is tracked at all."""
        if not is_tracking() or self.connection.failure:
            return False
        if self._client is None:
            parent = self._parent.run_id if isinstance(self._parent, Run) else self._parent
            opened = self.connection.ask(lambda: self._opened(parent))
            if opened is None:
                return False
            self._client, self._experiment, self._run_id = opened
        return True

    def _opened(self, parent: str | None) -> tuple[Any, str, str]:
        """The client, the experiment, and the id of the run, which is made where there is none."""
        client, experiment = connected(self._store_url)
        if self._run_id is not None:
            there = client.get_run(self._run_id)
            self._found_tags = there.data.tags
            self._found_points = dict.fromkeys(there.data.metrics)
            self._title = there.info.run_name or self._title
            return client, str(there.info.experiment_id), self._run_id
        tags = {"mlflow.parentRunId": parent} if parent else {}
        title = redact(self._title)[:_MAX_TITLE_CHARS]
        run = client.create_run(experiment, self._started_ms, {**self._tags, **tags}, title)
        return client, experiment, str(run.info.run_id)


@contextmanager
def finishing(run: Run) -> Iterator[Run]:
    """Close the run at the end, as what the end is."""
    try:
        yield run
    except BaseException as error:
        run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.finish()


def _now_ms() -> int:
    return int(time.time() * 1000)
