"""The part of Kubeflow Trainer and of the machines: pods of TrainJobs as processes of this machine, and statuses.

As the Trainer's torch plugin has it: a pod a host, torchrun told where the others are by ``PET_`` variables, which a
TrainJob may not set itself; a failed host is started anew as often as the runtime's ``backoffLimit`` says.
"""

import datetime
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

from tests.support.kube_api.refusals import Refusal
from tests.support.kube_api.server import KubeApi
from tests.support.kube_api.storage import Object

Command = Callable[[Object], list[str]]  # of a TrainJob's trainer -> what a pod runs
_RESERVED = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


class Trainer:
    """Runs what TrainJobs name.

    Args:
        api: where they are, and their ClusterTrainingRuntimes.
        command: what a pod runs; by default what the TrainJob says.
    """

    def __init__(self, api: KubeApi, command: Command | None = None) -> None:
        self._api = api
        self._command = command or (lambda trainer: [*trainer["command"], *trainer["args"]])
        self._lock = threading.Lock()
        self._jobs: dict[str, list[_Host]] = {}  # by id
        self._thread = threading.Thread(target=self._loop)
        api.storage.webhooks["trainjobs"] = self._refuse

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._api.closing.set()
        with self._api.storage.changed:
            self._api.storage.changed.notify_all()
        self._thread.join()
        for host in [host for hosts in self._jobs.values() for host in hosts]:
            host.end()

    @property
    def num_running(self) -> int:
        """Hosts whose process is there."""
        return sum(host.is_running for hosts in list(self._jobs.values()) for host in hosts)

    def _refuse(self, job: Object) -> None:
        """What the Trainer's webhook refuses."""
        name = job["spec"]["runtimeRef"]["name"]
        if not self._api.has("clustertrainingruntimes", "", name):
            message = f"ClusterTrainingRuntime.trainer.kubeflow.org {name!r} not found"
            raise Refusal(403, f'admission webhook "validator.trainjob.trainer.kubeflow.org" denied: {message}')
        given = {each["name"] for each in job["spec"].get("trainer", {}).get("env", ())}
        if reserved := sorted(given & set(_RESERVED)):
            raise Refusal(422, f"spec.trainer.env: must not have reserved envs, invalid envs configured: {reserved}")

    def _loop(self) -> None:
        kind, storage, seen = self._api.kind("trainjobs"), self._api.storage, -1
        while not self._api.closing.is_set():
            found, version = storage.listed(kind, "")
            if version == seen:
                with storage.changed:
                    storage.changed.wait(0.05)
                continue
            for job in found:
                if job["metadata"]["uid"] not in self._jobs:
                    self._begin(job)
                self._judge(job)
            there = {job["metadata"]["uid"] for job in found}
            for uid in set(self._jobs) - there:
                for host in self._jobs.pop(uid):
                    host.end()
                    host.forget()
            seen = version

    def _begin(self, job: Object) -> None:
        trainer, runtime = job["spec"]["trainer"], job["spec"]["runtimeRef"]["name"]
        spec = self._api.get("clustertrainingruntimes", "", runtime)["spec"]["template"]["spec"]
        (replicated,) = (each for each in spec["replicatedJobs"] if each["name"] == "node")
        tries = int(replicated["template"]["spec"].get("backoffLimit", 6))
        port = _free_port()
        common = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_MASTER_ADDR": "127.0.0.1",  # where the pods are here: the Trainer names that of the first
            "PET_MASTER_PORT": str(port),
        }
        self._jobs[job["metadata"]["uid"]] = [
            _Host(self._api, job, number, self._command(trainer), _environment(trainer) | common, tries)
            for number in range(trainer["numNodes"])
        ]

    def _judge(self, job: Object) -> None:
        """Set the condition that the hosts' ends are."""
        hosts = self._jobs[job["metadata"]["uid"]]
        states = [host.state for host in hosts]
        if job.get("status", {}).get("conditions") or not states:
            return
        if "Failed" in states:
            condition = _condition("Failed", "JobsFailed", "jobset failed due to one or more job failures")
        elif set(states) == {"Succeeded"}:
            condition = _condition("Complete", "JobsCompleted", "jobset completed successfully")
        else:
            return
        metadata = job["metadata"]
        try:
            self._api.set_status("trainjobs", metadata["namespace"], metadata["name"], {"conditions": [condition]})
        except Refusal as refusal:
            if refusal.code != 404:  # it was deleted meanwhile
                raise


class _Host:
    """One host: its pod, and those that were started in its place."""

    def __init__(
        self, api: KubeApi, job: Object, number: int, command: list[str], environment: dict[str, str], tries: int
    ) -> None:
        self._api, self._command, self._tries = api, command, tries
        self._environment = {**environment, "PET_NODE_RANK": str(number)}
        self._namespace, self._job = job["metadata"]["namespace"], job["metadata"]["name"]
        self._number = number
        self.state = "Running"
        self._is_ended = threading.Event()
        self._pods: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def end(self) -> None:
        self._is_ended.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join()

    def forget(self) -> None:
        for pod in self._pods:
            self._api.remove("pods", self._namespace, pod)

    def _run(self) -> None:
        for one in range(self._tries + 1):
            code = self._try(one)
            if code == 0 or self._is_ended.is_set():
                break
        self.state = "Succeeded" if code == 0 else "Failed"
        self._api.storage.touch()

    def _try(self, one: int) -> int:
        name = f"{self._job}-node-0-{self._number}-{one:05d}"
        labels = {
            "jobset.sigs.k8s.io/jobset-name": self._job,
            "batch.kubernetes.io/job-completion-index": str(self._number),
        }
        pod = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "node"}]}}
        self._api.put("pods", self._namespace, {**pod, "status": {"phase": "Pending"}})
        self._pods.append(name)
        lines: list[tuple[str, str]] = []
        self._api.logs[self._namespace, name, "node"] = lines
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if self._is_ended.is_set():  # meanwhile, when there was nothing to terminate
            self._process.terminate()
        self._set(name, "Running", {"running": {}})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            now = datetime.datetime.now(datetime.UTC)
            lines.append((f"{now:%Y-%m-%dT%H:%M:%S.%f}{len(lines) % 1000:03d}Z", line.rstrip("\n")))
        code = self._process.wait()
        self._process.stdout.close()
        code = 128 - code if code < 0 else code
        reason = "Completed" if code == 0 else "Error"
        phase = "Succeeded" if code == 0 else "Failed"
        self._set(name, phase, {"terminated": {"exitCode": code, "reason": reason}})
        return code

    def _set(self, name: str, phase: str, state: dict[str, Any]) -> None:
        status = {"phase": phase, "containerStatuses": [{"name": "node", "state": state}]}
        try:
            self._api.set_status("pods", self._namespace, name, status)
        except Refusal as refusal:
            if refusal.code != 404:
                raise


def training_runtime(name: str = "torch-distributed", backoff: int = 0) -> Object:
    """A ClusterTrainingRuntime as Kubeflow Trainer brings it, but for the image."""
    node = {"name": "node", "image": "pytorch/pytorch"}
    job = {"backoffLimit": backoff, "template": {"spec": {"containers": [node]}}}
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    replicated = [{"name": "node", "template": {"metadata": {"labels": labels}, "spec": job}}]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": name},
        "spec": {"mlPolicy": {"numNodes": 1, "torch": {}}, "template": {"spec": {"replicatedJobs": replicated}}},
    }


def _environment(trainer: Object) -> dict[str, str]:
    """What a container has: the image's variables, and those of the TrainJob that are no references to secrets."""
    own = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
    given = {each["name"]: each["value"] for each in trainer.get("env", ()) if "value" in each}
    return {**own, **given, "HOME": os.environ.get("HOME", "/tmp"), "PYTHON": sys.executable}


def _condition(kind: str, reason: str, message: str) -> dict[str, str]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
