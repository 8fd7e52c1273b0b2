"""What is asked of Kubeflow's pipelines, and what it answers, free of its client.

``pipelines/_cluster.py`` does it with the client that comes with kfp.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

TaskState = Literal["pending", "running", "finished", "failed", "skipped", "cancelled"]


@dataclass(frozen=True)
class ClusterTask:
    """One node of a run, as the workflow engine has it: a task, its driver, the pod that does its work.

    Attributes:
        name: as the engine calls it: ``train`` for the task, ``train-driver`` for what prepares it, ``executor`` for
            the pod that does the work.
        state: what became of it.
        started: when; None: not yet.
        ended: when; None: not yet.
        message: why it failed, where Kubeflow knows.
        pod: of the node; empty where Kubeflow does not say.
        children: nodes that come next or lie within.
    """

    name: str
    state: TaskState
    started: datetime | None = None
    ended: datetime | None = None
    message: str = ""
    pod: str = ""
    children: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterRun:
    """A run, as Kubeflow has it."""

    id: str
    name: str
    state: str
    created: datetime
    ended: datetime | None
    message: str
    settings: dict[str, object]
    pipeline: str
    version: str
    tasks: tuple[ClusterTask, ...] = ()


@dataclass(frozen=True)
class Version:
    """A version of a pipeline."""

    pipeline_id: str
    id: str
    name: str
    description: str


@dataclass(frozen=True)
class NewRun:
    """A run to be made."""

    name: str
    experiment: str
    version: Version
    settings: dict[str, object] = field(default_factory=dict)
    service_account: str = ""
    description: str = ""


class Cluster(Protocol):
    """Kubeflow's pipelines.

    Raises:
        ClusterUnreachable: they cannot be reached, or do not answer in time.
        NotAllowed: they do not know who asks, or do not let them.
        NotFound: what is asked for is not there.
        Conflict: what is to be made is there.
        ClusterError: they refuse for another reason.
    """

    dashboard: str

    def pipeline_id(self, name: str) -> str | None:
        """The id of the pipeline of that name."""
        ...

    def make_pipeline(self, name: str, description: str) -> str:
        """Make a pipeline without versions; its id."""
        ...

    def find_version(self, pipeline_id: str, name: str) -> Version | None:
        """A version of a pipeline by its name."""
        ...

    def upload_version(self, pipeline_id: str, name: str, description: str, file: Path) -> Version:
        """Make a version of a compiled pipeline."""
        ...

    def experiment_id(self, name: str) -> str | None:
        """The id of the experiment of that name."""
        ...

    def make_experiment(self, name: str, description: str) -> str:
        """Make an experiment; its id."""
        ...

    def create_run(self, run: NewRun) -> str:
        """Start a run; its id."""
        ...

    def create_recurring_run(self, run: NewRun, cron: str) -> str:
        """Have a run started again and again, one at a time; the id of what does so."""
        ...

    def get_run(self, run_id: str) -> ClusterRun:
        """A run with its tasks."""
        ...

    def runs(self) -> Iterator[ClusterRun]:
        """All runs, the newest first, without their tasks."""
        ...

    def terminate(self, run_id: str) -> None:
        """Ask a run to end."""
        ...

    def retry(self, run_id: str) -> None:
        """Do again what failed in a run, and what comes after it."""
        ...

    def log(self, run_id: str, pod: str) -> Iterator[bytes]:
        """What a pod of a run has printed until now."""
        ...
