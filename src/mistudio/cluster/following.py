"""A TrainJob from its start to its end: made or found, its hosts' output brought here, ended with who waits for it."""

import time
from collections.abc import Iterator

from mistudio.cluster.api import Cluster
from mistudio.cluster.pods import Ended, ended, last_lines, trouble
from mistudio.cluster.resources import PODS, TRAIN_JOBS, Object
from mistudio.cluster.trainjob import CONTAINER, JOB_LABEL, ended_as, message_of
from mistudio.errors import ClusterError, HostsFailed
from mistudio.progress import say

_USERS_ERRORS = (2, 3)  # which no further try would change
_SLACK_S = 30  # that a host's clock may be behind, and a look at logs may take
_STARTED = ("Running", "Succeeded", "Failed")


class Following:
    """One TrainJob, followed.

    Args:
        cluster: where it is.
        job: as it is to be made.
        check_every_s: seconds between two looks.
    """

    def __init__(self, cluster: Cluster, job: Object, check_every_s: float) -> None:
        self._cluster, self._job, self._every = cluster, job, check_every_s
        self._namespace, self._name = job["metadata"]["namespace"], job["metadata"]["name"]
        self._labels = {JOB_LABEL: self._name}
        self._told: dict[str, str] = {}  # by pod, the time of the last line that was shown
        self._looked = time.monotonic()
        self._trouble = ""

    def run(self) -> None:
        """Make the job or find it, and wait for its end; where this process is told to end, the job ends with it.

        Raises:
            HostsFailed: a host failed; its last lines are in the message, its status in ``exit_code``.
            ClusterError: the cluster refuses, or cannot be reached; then the job goes on, and is found again.
        """
        uid = self._start()
        try:
            self._follow()
        except HostsFailed:
            raise
        except ClusterError as error:
            message = f"{error} TrainJob {self._name} goes on if it can: run this again to follow it."
            raise ClusterError(message, error.status, error.reason) from error
        except BaseException as error:
            error.add_note(self._end(uid))
            raise
        self._cluster.delete(TRAIN_JOBS, self._namespace, self._name, uid)

    def _end(self, uid: str) -> str:
        """End the job with this process; what became of it."""
        try:
            self._cluster.delete(TRAIN_JOBS, self._namespace, self._name, uid)
        except ClusterError as error:
            return f"TrainJob {self._name} could not be ended: {error}"
        return f"TrainJob {self._name} was ended with it."

    def _start(self) -> str:
        """The id of the job, made now or gone on with."""
        there = self._cluster.get(TRAIN_JOBS, self._namespace, self._name)
        if there is not None and ended_as(there):
            say(f"TrainJob {self._name} of before ended as {ended_as(there)}: it is made anew.")
            self._cluster.delete(TRAIN_JOBS, self._namespace, self._name, there["metadata"]["uid"])
            there = self._until_gone(there["metadata"]["uid"])
        if there is None:
            there = self._made()
        else:
            say(f"TrainJob {self._name} is at work already: following it.")
        return str(there["metadata"]["uid"])

    def _made(self) -> Object:
        try:
            made = self._cluster.create(TRAIN_JOBS, self._job)
        except ClusterError as error:
            there = self._cluster.get(TRAIN_JOBS, self._namespace, self._name)
            if error.reason != "AlreadyExists" or there is None:
                raise
            return there  # by somebody else, or by a request of ours whose answer was lost
        say(f"Made TrainJob {self._name} in {self._namespace}: {made['spec']['trainer']['numNodes']} hosts.")
        return made

    def _until_gone(self, uid: str) -> Object | None:
        """Wait until a job that was deleted is gone; another of its name, if there is one then."""
        while True:
            there = self._cluster.get(TRAIN_JOBS, self._namespace, self._name)
            if there is None or there["metadata"]["uid"] != uid:
                return there
            time.sleep(self._every)

    def _follow(self) -> None:
        while True:
            job = self._cluster.get(TRAIN_JOBS, self._namespace, self._name)
            if job is None:
                message = f"TrainJob {self._name} is gone: somebody has deleted it. Running this again makes it anew."
                raise HostsFailed(message, 1)
            state = ended_as(job)
            pods = self._cluster.find(PODS, self._namespace, self._labels)
            self._show(pods)
            failed = sorted(self._failures(pods), key=lambda each: each.exit_code not in _USERS_ERRORS)
            if state == "Failed" or (failed and failed[0].exit_code in _USERS_ERRORS):
                self._fail(job, failed, is_over=bool(state))
            if state == "Complete":
                return
            self._tell_trouble()
            time.sleep(self._every)

    def _failures(self, pods: list[Object]) -> Iterator[Ended]:
        for pod in pods:
            yield from (each for each in ended(pod) if each.container == CONTAINER)

    def _fail(self, job: Object, failed: list[Ended], *, is_over: bool) -> None:
        """End with what the host said that failed.

        Raises:
            HostsFailed: always.
        """
        if not failed:
            message = f"TrainJob {self._name} failed: {message_of(job, 'Failed') or 'no host says why'}"
            raise HostsFailed(message, 1)
        first = failed[0]
        said = last_lines(self._cluster, self._namespace, first.pod, first.container)
        if not is_over:  # it would be tried again, to end the same way
            self._cluster.delete(TRAIN_JOBS, self._namespace, self._name, job["metadata"]["uid"])
        message = f"TrainJob {self._name} failed: {first.pod} ended with status {first.exit_code} ({first.why}).{said}"
        raise HostsFailed(message, first.exit_code)

    def _show(self, pods: list[Object]) -> None:
        """Bring what the hosts have printed since the last look."""
        began, passed_s = time.monotonic(), time.monotonic() - self._looked
        for number, pod in enumerate(sorted(pods, key=lambda each: str(each["metadata"]["name"]))):
            name = pod["metadata"]["name"]
            if (pod.get("status") or {}).get("phase") not in _STARTED:
                continue
            since_s = int(passed_s) + _SLACK_S if name in self._told else 0
            for line in self._cluster.pod_log(self._namespace, name, CONTAINER, since_s=since_s).splitlines():
                at, _, text = line.partition(" ")
                if at > self._told.get(name, ""):
                    self._told[name] = at
                    say(f"[host {number}] {text}")
        self._looked = began

    def _tell_trouble(self) -> None:
        """Say once why pods do not run."""
        seen = trouble(self._cluster, self._namespace, self._labels)
        if seen and seen != self._trouble:
            say(seen)
        self._trouble = seen
