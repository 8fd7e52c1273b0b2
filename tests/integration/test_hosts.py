"""TrainJobs followed from start to end, on a cluster whose pods are processes of this machine."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.executor import Executor

from components.train_on_hosts.component import train_on_hosts
from mistudio import steps
from mistudio.artifacts import Artifact
from mistudio.cluster.api import Cluster
from mistudio.cluster.following import Following
from mistudio.cluster.hosts_config import HostsConfig, PodSettings
from mistudio.cluster.resources import TRAIN_JOBS
from mistudio.cluster.trainjob import train_job
from mistudio.errors import ClusterError, ConfigError, HostsFailed
from mistudio.stopping import Stopped
from tests.support.kube_accounts import ACCOUNT, DATA, MAY_TRAIN, TOKEN, calls_in, can_be_ended, connected, kubeconfig
from tests.support.kube_api import KubeApi, role
from tests.support.kube_api.trainer_part import Trainer, training_runtime
from tests.support.tiny_run import HOOK, TinyRun, llama_run

ROOT = Path(__file__).parents[2]
NAME = "mistudio-sae-0123456789abcdef"


class Stage:
    """A cluster with the Trainer in it, connected to."""

    def __init__(self, api: KubeApi, trainer: Trainer, cluster: Cluster) -> None:
        self.api, self.trainer, self.cluster = api, trainer, cluster

    def follow(self, **settings: Any) -> None:
        hosts = HostsConfig(num_nodes=2, check_every_s=0.02, **settings)
        Following(self.cluster, train_job(NAME, DATA, ["train"], hosts, {}), 0.02).run()

    def has_job(self) -> bool:
        return self.api.has("trainjobs", DATA, NAME)


@contextmanager
def stage(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = "", backoff: int = 0) -> Iterator[Stage]:
    """A script in place of the TrainJob's command runs on each host."""
    with ExitStack() as stack:
        api = stack.enter_context(KubeApi("trainjobs", "clustertrainingruntimes"))
        api.rights.account(ACCOUNT, TOKEN, MAY_TRAIN)
        api.put("clustertrainingruntimes", "", training_runtime(backoff=backoff))
        command = (lambda _trainer: ["sh", "-c", script]) if script else None
        trainer = stack.enter_context(Trainer(api, command))
        yield Stage(api, trainer, stack.enter_context(connected(folder, api, monkeypatch)))


def test_all_hosts_output_is_brought_and_a_job_that_is_done_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = "echo first of $PET_NODE_RANK; sleep 0.1; echo last of $PET_NODE_RANK of $PET_NNODES"
    with caplog.at_level(logging.INFO, "mistudio"), stage(tmp_path, monkeypatch, script) as made:
        made.follow()
        assert not made.has_job()
        assert made.api.rights.used_rules(ACCOUNT) == calls_in(DATA)  # no more, and no less
    told = [record.message for record in caplog.records if record.message.startswith("[host")]
    assert sorted(told) == sorted(
        f"[host {n}] {word} of {n}{end}" for n in (0, 1) for word, end in (("first", ""), ("last", " of 2"))
    )


def test_an_error_in_what_was_asked_for_ends_at_once_with_the_hosts_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = f"[ $PET_NODE_RANK = 1 ] && mkdir {tmp_path}/once 2>/dev/null"  # so that what is tried again goes on
    script = f'{once} && {{ echo "Error: no such hook point"; exit 2; }}; exec sleep 60'
    with stage(tmp_path, monkeypatch, script, backoff=6) as made:
        with pytest.raises(
            HostsFailed, match=r"(?s)node-0-1-00000 ended with status 2 .*Error: no such hook point"
        ) as failed:
            made.follow()
        assert failed.value.exit_code == 2
        assert not made.has_job()


def test_a_host_that_fails_otherwise_is_tried_again_and_then_the_job_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch, "echo out of luck; exit 7", backoff=1) as made:
        with pytest.raises(HostsFailed, match="ended with status 7") as failed:
            made.follow()
        assert failed.value.exit_code == 7
        first = made.api.get("trainjobs", DATA, NAME)["metadata"]["uid"]
        with pytest.raises(HostsFailed):  # made anew: that of before is in its way
            made.follow()
        assert made.api.get("trainjobs", DATA, NAME)["metadata"]["uid"] != first


def test_the_job_ends_with_the_process_that_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "exec sleep 60") as made:

        def cancel() -> None:
            while made.trainer.num_running < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        other = threading.Thread(target=cancel)
        other.start()
        with pytest.raises(Stopped) as stopped, can_be_ended():
            made.follow()
        other.join()
        assert stopped.value.__notes__ == [f"TrainJob {NAME} was ended with it."]
        assert not made.has_job()


def test_an_api_that_is_gone_for_a_while_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "sleep 0.2") as made:
        made.api.fail(0, verb="get", times=4)
        made.api.fail(503, plural="pods", times=4)
        made.api.fail(verb="create", after=True)  # the job is made, and the answer lost
        made.follow()
        assert made.api.num_asked("create", "trainjobs") == 2
        assert not made.has_job()


def test_a_job_that_is_at_work_is_followed_and_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done") as made:
        hosts = HostsConfig(num_nodes=2)
        made.cluster.create(TRAIN_JOBS, train_job(NAME, DATA, ["train"], hosts, {}))  # as a launcher that was killed
        (tmp_path / "go").touch()
        made.follow()
        assert made.api.num_asked("create", "trainjobs") == 1


def test_where_the_api_stays_away_the_job_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage(tmp_path, monkeypatch, "exec sleep 60") as made:
        made.api.rights.account(ACCOUNT, TOKEN, role(DATA, ("trainer.kubeflow.org", "trainjobs", ("get", "create"))))
        right = f"right to list pods in namespace {DATA}.* goes on if it can: run this again"
        with pytest.raises(ClusterError, match=right):
            made.follow()
        assert made.has_job()


def test_a_missing_runtime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        stage(tmp_path, monkeypatch, "true") as made,
        pytest.raises(ClusterError, match="ClusterTrainingRuntime.trainer.kubeflow.org 'other' not found"),
    ):
        made.follow(training_runtime="other")


def test_what_the_tasks_pod_was_given_reaches_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "run-1-train")
    monkeypatch.setenv("KFP_POD_UID", "of-the-pod")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:{}@mlflow.example.com".format("a-password"))
    monkeypatch.setenv("MISTUDIO_IMAGE", "ghcr.io/mistudio/batch-python:0123")
    pod = PodSettings(
        resources={"limits": {"nvidia.com/gpu": "2", "memory": "64Gi"}, "requests": {"cpu": 4}},
        env=[{"name": "PET_NNODES", "value": "9"}, {"name": "MISTUDIO_STORE", "value": "s3://bucket/store"}],
        volumes=[
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "12Gi"}},
        ],
        volume_mounts=[{"name": "data", "mountPath": "/data"}, {"name": "scratch", "mountPath": "/scratch"}],
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        node_selector={"gpu": "a100"},
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
    )
    with stage(tmp_path, monkeypatch, "true") as made:
        job = made.cluster.create(TRAIN_JOBS, train_job(NAME, DATA, ["train"], HostsConfig(pod=pod), {"makes": "x"}))
    trainer = job["spec"]["trainer"]
    assert (trainer["numProcPerNode"], trainer["resourcesPerNode"]) == (2, pod.resources)
    assert trainer["image"] == "ghcr.io/mistudio/batch-python:0123"
    environment = {each["name"]: each for each in trainer["env"]}
    assert environment["MISTUDIO_STORE"]["value"] == "s3://bucket/store"
    assert environment["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "mistudio-s3"
    assert environment["MLFLOW_RUN_ID"]["value"] == "0123"
    assert not {"PET_NNODES", "MLFLOW_TRACKING_URI"} & set(environment)  # the Trainer's own, and one with a secret
    spec = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    patched = spec["template"]["spec"]["template"]["spec"]
    assert patched["nodeSelector"] == {"gpu": "a100"}
    assert patched["securityContext"]["runAsNonRoot"] is True
    mounts = {each["mountPath"]: each["name"] for each in patched["containers"][0]["volumeMounts"]}
    assert mounts == {"/tmp": "mistudio-tmp", "/scratch": "scratch", "/data": "data"}
    assert [each["name"] for each in patched["volumes"]] == ["mistudio-tmp", "data", "scratch"]
    assert job["metadata"]["ownerReferences"][0]["name"] == "run-1-train"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


def settings(tiny: TinyRun) -> dict[str, Any]:
    return {
        "activations": tiny.activations.uri,
        "store": str(tiny.store.url),
        "hook": HOOK,
        "architecture": "batchtopk",
        "width": 64,
        "k": 4,
        "tokens": 2048,
        "train_settings": {"batch_size": 64, "aux_k": 8},
        "device": "cpu",
        "seed": 3,
    }


def test_a_store_that_no_other_host_reaches_is_refused_before_anything_starts(tiny: TinyRun) -> None:
    with pytest.raises(ConfigError, match=r"is a folder of this machine.*s3://BUCKET/PREFIX"):
        steps.run_step("train_on_hosts", **settings(tiny))


def test_the_component_hands_on_what_kfp_says_of_its_pod_and_finds_what_train_made(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By KFP's own executor, with the task's configuration as KFP's driver writes it."""
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    own = settings(tiny) | {"seed": 5}
    made = steps.run_step("train", **own).artifact
    given: list[dict[str, Any]] = []
    real = steps.run_step
    monkeypatch.setattr(steps, "run_step", lambda name, **values: given.append(values) or real(name, **values))
    manifest = tmp_path / "activations"
    manifest.write_bytes(tiny.activations.manifest.to_json())
    own |= {"train_settings": json.dumps(own["train_settings"])}
    values = {name: value for name, value in own.items() if name not in ("activations", "device")}
    task = {"resources": {"limits": {"nvidia.com/gpu": "2"}}, "nodeSelector": {"gpu": "a"}, "volumeMounts": []}

    def artifact(name: str, kind: str) -> dict[str, Any]:
        one = {"name": name, "uri": str(tmp_path / name), "metadata": {}, "type": {"schemaTitle": kind}}
        return {name: {"artifacts": [one]}}

    executor_input = {
        "inputs": {
            "parameterValues": {**values, "task_config": task},
            "artifacts": artifact("activations", "system.Dataset"),
        },
        "outputs": {
            "artifacts": artifact("sae", "system.Model") | artifact("summary", "system.Markdown"),
            "outputFile": str(tmp_path / "output.json"),
        },
    }
    Executor(executor_input, train_on_hosts.python_func).execute()
    assert steps.artifact_uri(str(tmp_path / "sae")) == made.uri
    pod = PodSettings.model_validate_json(given[0]["pod"])
    assert (pod.num_gpus, pod.node_selector) == (2, {"gpu": "a"})


@pytest.mark.proof
def test_two_hosts_train_the_autoencoder_that_train_would(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts, each with torchrun and one process; then the step train finds what they made."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    mounted = {"volume_mounts": [{"name": "store", "mountPath": str(tiny.store.url)}]}
    with KubeApi("trainjobs", "clustertrainingruntimes") as api, Trainer(api, _python) as trainer:
        api.rights.account(ACCOUNT, TOKEN, MAY_TRAIN)
        api.put("clustertrainingruntimes", "", training_runtime())
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, api)))
        made = steps.run_step("train_on_hosts", **settings(tiny), num_nodes=2, pod=mounted)
        assert trainer.num_running == 0
    artifact: Artifact = made.artifact
    assert not made.found
    assert steps.run_step("train", **settings(tiny)).artifact.digest == artifact.digest
    assert steps.run_step("train_on_hosts", **settings(tiny)).found  # without a cluster


@pytest.mark.proof
def test_what_a_host_refuses_is_what_the_step_says(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT)]))
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    mounted = {"volume_mounts": [{"name": "store", "mountPath": str(tiny.store.url)}]}

    def refused(trainer: dict[str, Any]) -> list[str]:
        return [*_python(trainer), "--set", "nonsense=1"]

    with KubeApi("trainjobs", "clustertrainingruntimes") as api, Trainer(api, refused):
        api.rights.account(ACCOUNT, TOKEN, MAY_TRAIN)
        api.put("clustertrainingruntimes", "", training_runtime(backoff=6))
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, api)))
        with pytest.raises(HostsFailed, match="nonsense") as failed:
            steps.run_step("train_on_hosts", **settings(tiny) | {"seed": 4}, num_nodes=2, pod=mounted)
    assert failed.value.exit_code == 2


def _python(trainer: dict[str, Any]) -> list[str]:
    """The TrainJob's command, with this interpreter."""
    import sys

    assert trainer["command"][0] == "python"
    return [sys.executable, *trainer["command"][1:], *trainer["args"]]
