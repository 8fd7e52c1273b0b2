"""Runs on Kubeflow: the same interface as runs on this machine.

What Kubeflow knows of a run is the states of its tasks. What its steps ended with, their artifacts and figures, is in
the store, where the steps keep it (``steps/records.py``).
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from mistudio.artifacts import Store, open_to_read
from mistudio.errors import ClusterError, ConfigError, InputError, MistudioError, NotAllowed, NotFound
from mistudio.events import Event, Finished
from mistudio.plain_text import shortened
from mistudio.runs import checkout
from mistudio.runs.checking import check_request, refuse_cancel, refuse_retry
from mistudio.runs.cluster import Cluster, ClusterRun, NewRun
from mistudio.runs.connection import Connection
from mistudio.runs.folder import SETTINGS
from mistudio.runs.news import News, exit_code, failures, finished_events
from mistudio.runs.run import Run, RunArtifact, Settings, State, Target
from mistudio.runs.submitting import Submission, experiment_id, upload
from mistudio.runs.tasks import StepTask, step_tasks
from mistudio.settings import refused
from mistudio.steps.records import kept

logger = logging.getLogger(__name__)

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CRON_FIELDS = 6
_STATES: dict[str, State] = {
    "PENDING": "pending",
    "PAUSED": "pending",
    "RUNTIME_STATE_UNSPECIFIED": "pending",
    "RUNNING": "running",
    "CANCELING": "running",
    "SUCCEEDED": "finished",
    "SKIPPED": "finished",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}


class KubeflowRunner:
    """Runs on Kubeflow; see :class:`mistudio.runs.Runner`.

    Args:
        where: the connection to its API.
        store: where runs publish that are started here, and where what they ended with is read; empty: what the pods
            are told, and to read, the run's own or the default one.
        submission: how pipelines are submitted.
        poll_s: seconds between two looks at a run that is followed.
        cluster: Kubeflow's pipelines; None: those that ``where`` leads to.
    """

    def __init__(
        self,
        where: Connection | None = None,
        store: str = "",
        submission: Submission | None = None,
        *,
        poll_s: float = 5.0,
        cluster: Cluster | None = None,
    ) -> None:
        self.store, self.submission, self._poll_s = store, submission or Submission(), poll_s
        self.cluster: Cluster = cluster or checkout.cluster_functions().KfpCluster(where or Connection())
        self._warned: set[str] = set()
        self._known: dict[str, dict[str, Event]] = {}  # by run, what its steps have kept in the store
        self._stores: dict[str, Store] = {}

    def start(self, target: Target, settings: Settings) -> Run:
        """Upload the pipeline, unless its version is there, and start a run of it.

        Raises:
            ConfigError: a setting is refused.
            ClusterError: Kubeflow refuses, or cannot be reached.
        """
        return self.get(self.cluster.create_run(self._prepared(target, settings)))

    def schedule(self, target: Target, settings: Settings, cron: str) -> str:
        """Upload the pipeline, unless its version is there, and have it run again and again.

        Args:
            target: the pipeline.
            settings: of each run.
            cron: when, in six fields: seconds, minutes, hours, days, months, days of the week.

        Returns:
            The id of the recurring run, whose runs have ids of their own.

        Raises:
            ConfigError: a setting is refused.
            ClusterError: Kubeflow refuses, or cannot be reached.
        """
        if len(cron.split()) != _CRON_FIELDS:
            message = (
                f"cron {shortened(cron)} has not {_CRON_FIELDS} fields: seconds, minutes, hours, days, months, days of "
                "the week, such as '0 0 2 * * *'."
            )
            raise ConfigError(message)
        return self.cluster.create_recurring_run(self._prepared(target, settings), cron)

    def get(self, run_id: str) -> Run:
        """One run."""
        run = self.cluster.get_run(_checked_id(run_id))
        return self._run(run, self._kept(run))

    def steps(self, run_id: str) -> list[StepTask]:
        """The steps of a run, as Kubeflow has them."""
        return step_tasks(self.cluster.get_run(_checked_id(run_id)).tasks)

    def events(self, run_id: str, *, follow: bool = False) -> Iterator[Event]:
        """What the steps of a run ended with, and when they began; ``follow``: until it ends."""
        news = News()
        while True:
            run = self.cluster.get_run(_checked_id(run_id))
            yield from news.of(run, self._kept(run))
            if not follow or self._run(run).has_ended:
                return
            time.sleep(self._poll_s)

    def finished(self, run_id: str) -> Sequence[Finished]:
        """What the steps of a run published, and for those that Kubeflow took from its cache, what they had."""
        run = self.cluster.get_run(_checked_id(run_id))
        return list(finished_events(self._kept(run), lambda: self._opened(run)))

    def log(self, run_id: str, step: str = "", *, follow: bool = False) -> Iterator[bytes]:
        """What the pods of a run's steps have printed until now, one after the other."""
        if follow:
            message = "Kubeflow's logs are not followed: mistudio status shows how far a run is."
            raise InputError(message)
        asked = step.replace("-", "_")
        steps = self.steps(run_id)
        chosen = [each for each in steps if each.step == asked or not step]
        if step and not chosen:
            known = ", ".join(dict.fromkeys(each.step for each in steps)) or "none yet"
            message = f"Run {run_id} has no step {shortened(step)}; it has {known}."
            raise NotFound(message)
        if chosen and not any(each.pods for each in chosen):
            message = (
                f"Kubeflow names no pod of run {run_id} that has a log. With the right to read the logs of pods: "
                f"kubectl logs --selector pipeline/runid={run_id} --container main --tail -1"
            )
            raise NotFound(message)
        for each in chosen:
            for pod in each.pods:
                yield f"==> {each.step} ({pod}) <==\n".encode()
                try:
                    yield from self.cluster.log(run_id, pod)
                except (ClusterError, NotFound) as error:
                    if step or isinstance(error, NotAllowed):
                        raise
                    yield f"Its log cannot be read: {error}\n".encode()  # those of others may be

    def retry(self, run_id: str) -> Run:
        """Do again what failed in a run, and what comes after it."""
        refuse_retry(self.get(run_id))
        self.cluster.retry(run_id)
        return self.get(run_id)

    def cancel(self, run_id: str) -> Run:
        """End a run with all its pods; Kubeflow does so within moments."""
        refuse_cancel(self.get(run_id))
        self.cluster.terminate(run_id)
        return self.get(run_id)

    def list(self) -> list[Run]:
        """All runs, the newest first, without what they made."""
        return [self._run(each) for each in self.cluster.runs()]

    def _prepared(self, target: Target, settings: Settings) -> NewRun:
        if target.kind != "pipeline":
            message = f"{target} is a step, and Kubeflow runs pipelines: {', '.join(checkout.pipeline_names())}."
            raise InputError(message)
        settings = {name: value for name, value in settings.items() if value is not None}
        check_request(target, settings, elsewhere=True)
        try:
            plain = SETTINGS.validate_python(dict(settings))
        except ValidationError as error:
            raise refused(error) from error
        version = upload(self.cluster, target.name, self.submission)
        return NewRun(
            name=self.submission.name or f"{target.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            description=version.description,
            version=version,
            experiment=experiment_id(self.cluster, self.submission.experiment),
            settings={**plain, **({"store": self.store} if self.store else {})},
            service_account=self.submission.service_account,
        )

    def _store_of(self, run: ClusterRun) -> str:
        return self.store or str(run.settings.get("store") or "")

    def _opened(self, run: ClusterRun) -> Store:
        url = self._store_of(run)
        if url not in self._stores:
            self._stores[url] = open_to_read(url)
        return self._stores[url]

    def _kept(self, run: ClusterRun) -> dict[str, Event]:
        """What the steps have kept in the store, if that can be read from here."""
        try:
            self._known[run.id] = kept(self._opened(run), run.id, self._known.get(run.id, {}))
            return self._known[run.id]
        except MistudioError as error:
            if run.id not in self._warned:
                self._warned.add(run.id)
                logger.warning("What the steps of run %s ended with cannot be read: %s", run.id, error)
            return {}

    def _run(self, run: ClusterRun, events: "dict[str, Event] | None" = None) -> Run:
        state = _STATES.get(run.state, "pending")
        settings = {name: value for name, value in run.settings.items() if name != "store"}
        made = list(finished_events(events or {}))
        dashboard = self.cluster.dashboard
        return Run(
            id=run.id,
            target=Target(kind="pipeline", name=run.pipeline or run.name),
            settings=SETTINGS.validate_python(settings),
            store=self._store_of(run),
            state=state,
            created_at=run.created,
            ended_at=run.ended,
            exit_code=exit_code(state, run, events or {}),
            message=_why(state, run, events or {}),
            artifacts=tuple(RunArtifact(step=e.step, uri=e.uri, digest=e.digest, found=e.found) for e in made),
            name=run.name,
            version=run.version,
            link=f"{dashboard}/#/runs/details/{run.id}" if dashboard else "",
        )


def _why(state: State, run: ClusterRun, events: dict[str, Event]) -> str:
    if state != "failed":
        return ""
    return "\n".join(f"{each.step}: {each.message}" for each in failures(run, events)) or run.message


def _checked_id(run_id: str) -> str:
    if not ID.fullmatch(run_id):
        message = f"{shortened(run_id)} is no id of a run on Kubeflow: see mistudio runs list --on kubeflow."
        raise NotFound(message)
    return run_id
