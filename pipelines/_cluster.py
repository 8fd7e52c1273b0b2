"""Kubeflow's pipelines, asked by the client of their API that comes with kfp.

The generated client, ``kfp_server_api``, and not ``kfp.Client`` on top of it: that one prints, keeps a namespace and a
cookie in the home folder, and tries a server that does not answer for half a minute before it says so.
"""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp_server_api as api

from mistudio.errors import NotFound
from mistudio.runs.cluster import ClusterRun, ClusterTask, NewRun, TaskState, Version
from mistudio.runs.connection import Connection
from pipelines._asking import Asker

_STATES: dict[str, TaskState] = {
    "SUCCEEDED": "finished",
    "FAILED": "failed",
    "SKIPPED": "skipped",
    "CANCELED": "cancelled",
    "RUNNING": "running",
    "CANCELING": "running",
}


class KfpCluster:
    """See :class:`mistudio.runs.cluster.Cluster`.

    Args:
        where: the connection.
        pause_s: seconds before a request that was not taken is sent again; more each time.
    """

    def __init__(self, where: Connection, *, pause_s: float = 0.5) -> None:
        self._asker = Asker(where, pause_s=pause_s)
        self._namespace = where.namespace or None
        self._in_namespace = {"namespace": where.namespace} if where.namespace else {}
        self.dashboard = where.dashboard or where.host
        client = self._asker.client
        self._runs, self._pipelines = api.RunServiceApi(client), api.PipelineServiceApi(client)
        self._uploads, self._experiments = api.PipelineUploadServiceApi(client), api.ExperimentServiceApi(client)
        self._recurring = api.RecurringRunServiceApi(client)
        self._names: dict[tuple[str, str], str] = {}

    def pipeline_id(self, name: str) -> str | None:
        """The id of the pipeline of that name."""
        try:
            found = self._asker.ask(
                "pipeline", self._pipelines.pipeline_service_get_pipeline_by_name, name, **self._in_namespace
            )
        except NotFound:
            return None
        return str(found.pipeline_id)

    def make_pipeline(self, name: str, description: str) -> str:
        """Make a pipeline without versions; its id."""
        # Older servers know a display name alone, newer ones take the name from it.
        made = api.V2beta1Pipeline(display_name=name, description=description, namespace=self._namespace)
        return str(self._asker.ask("pipeline", self._pipelines.pipeline_service_create_pipeline, made).pipeline_id)

    def find_version(self, pipeline_id: str, name: str) -> Version | None:
        """A version of a pipeline by its name."""
        function = self._pipelines.pipeline_service_list_pipeline_versions
        found = self._asker.paged("pipeline_versions", function, pipeline_id, filter=_named(name))
        return next((_version(each) for each in found), None)

    def upload_version(self, pipeline_id: str, name: str, description: str, file: Path) -> Version:
        """Make a version of a compiled pipeline."""
        function = self._uploads.upload_pipeline_version
        made = self._asker.ask(
            "pipeline version", function, str(file), name=name, pipelineid=pipeline_id, description=description
        )
        return _version(made)

    def experiment_id(self, name: str) -> str | None:
        """The id of the experiment of that name."""
        function = self._experiments.experiment_service_list_experiments
        found = self._asker.paged("experiments", function, filter=_named(name), **self._in_namespace)
        return next((str(each.experiment_id) for each in found), None)

    def make_experiment(self, name: str, description: str) -> str:
        """Make an experiment; its id."""
        made = api.V2beta1Experiment(display_name=name, description=description, namespace=self._namespace)
        return str(
            self._asker.ask("experiment", self._experiments.experiment_service_create_experiment, made).experiment_id
        )

    def create_run(self, run: NewRun) -> str:
        """Start a run; its id."""
        asked = api.V2beta1Run(**_asked(run))
        return str(self._asker.ask("run", self._runs.run_service_create_run, asked, repeat=False).run_id)

    def create_recurring_run(self, run: NewRun, cron: str) -> str:
        """Have a run started again and again, one at a time; the id of what does so."""
        asked = api.V2beta1RecurringRun(
            **_asked(run),
            namespace=self._namespace,
            mode="ENABLE",
            max_concurrency="1",
            no_catchup=True,  # what was missed while the cluster was down is not made up for
            trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
        )
        function = self._recurring.recurring_run_service_create_recurring_run
        return str(self._asker.ask("recurring run", function, asked, repeat=False).recurring_run_id)

    def get_run(self, run_id: str) -> ClusterRun:
        """A run with its tasks."""
        return self._run(self._asker.ask(f"run {run_id}", self._runs.run_service_get_run, run_id))

    def runs(self) -> Iterator[ClusterRun]:
        """All runs, the newest first, without their tasks."""
        for each in self._asker.paged(
            "runs", self._runs.run_service_list_runs, sort_by="created_at desc", **self._in_namespace
        ):
            yield self._run(each)

    def terminate(self, run_id: str) -> None:
        """Ask a run to end."""
        self._asker.ask(f"run {run_id}", self._runs.run_service_terminate_run, run_id)

    def retry(self, run_id: str) -> None:
        """Do again what failed in a run, and what comes after it."""
        self._asker.ask(f"run {run_id}", self._runs.run_service_retry_run, run_id, repeat=False)

    def log(self, run_id: str, pod: str) -> Iterator[bytes]:
        """What a pod of a run has printed until now."""
        return self._asker.log(run_id, pod)

    def _run(self, run: Any) -> ClusterRun:
        reference = run.pipeline_version_reference
        pipeline, version = self._names_of(reference) if reference else ("", "")
        config = run.runtime_config
        details = run.run_details.task_details if run.run_details else None
        return ClusterRun(
            id=run.run_id,
            name=run.display_name or "",
            state=str(run.state or "PENDING"),
            created=run.created_at,
            ended=_moment(run.finished_at),
            message=self._message(run.error),
            settings=dict(config.parameters or {}) if config else {},
            pipeline=pipeline,
            version=version,
            tasks=tuple(self._task(each) for each in details or ()),
        )

    def _task(self, detail: Any) -> ClusterTask:
        children = [each.pod_name or each.task_id or "" for each in detail.child_tasks or ()]
        return ClusterTask(
            name=detail.display_name or "",
            state=_STATES.get(str(detail.state), "pending"),
            started=_moment(detail.start_time),
            ended=_moment(detail.end_time),
            message=self._message(detail.error),
            pod=detail.pod_name or "",
            children=tuple(children),
        )

    def _message(self, status: Any) -> str:
        return self._asker.hide(str(status.message or "")) if status else ""

    def _names_of(self, reference: Any) -> tuple[str, str]:
        """Names of a pipeline and its version; empty where they were deleted."""
        pipeline, version = reference.pipeline_id or "", reference.pipeline_version_id or ""
        get = self._pipelines
        return (
            self._name((pipeline, ""), get.pipeline_service_get_pipeline, pipeline) if pipeline else "",
            self._name((pipeline, version), get.pipeline_service_get_pipeline_version, pipeline, version)
            if pipeline and version
            else "",
        )

    def _name(self, key: tuple[str, str], function: Callable[..., Any], *given: str) -> str:
        if key not in self._names:
            try:
                self._names[key] = self._asker.ask("pipeline", function, *given).display_name or ""
            except NotFound:
                self._names[key] = ""
        return self._names[key]


def _asked(run: NewRun) -> dict[str, Any]:
    """What runs and recurring runs are asked for by."""
    return {
        "display_name": run.name,
        "description": run.description,
        "experiment_id": run.experiment,
        "pipeline_version_reference": api.V2beta1PipelineVersionReference(
            pipeline_id=run.version.pipeline_id, pipeline_version_id=run.version.id
        ),
        "runtime_config": api.V2beta1RuntimeConfig(parameters=run.settings),
        "service_account": run.service_account or None,
    }


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _version(made: Any) -> Version:
    return Version(made.pipeline_id, made.pipeline_version_id, made.display_name or "", made.description or "")


def _moment(value: datetime | None) -> datetime | None:
    """A time; what has none is sent as the first second of 1970, or of the year 1."""
    return value if value is not None and value.year > 1970 else None
