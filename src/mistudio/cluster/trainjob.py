"""TrainJobs of Kubeflow Trainer: the work of one command on several hosts, each with torchrun's processes.

The Trainer makes a pod a host and tells torchrun in each by variables (``PET_...``) where the others are. A TrainJob's
name comes from the recipe of what is made, so that whoever starts the same work again finds it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.cluster.hosts_config import HostsConfig
from mistudio.cluster.inference import OWNER, PREFIX
from mistudio.cluster.resources import TRAIN_JOBS, Object
from mistudio.redaction import secret_setting

CONTAINER = "node"  # of the runtime, and the name of its job of the hosts
JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
_COMMAND = ["python", "-m", "mistudio.cluster.node"]
_SCRATCH = "/scratch"
_WRITABLE = {"mistudio-tmp": "/tmp", "mistudio-scratch": _SCRATCH}  # noqa: S108  # nosec B108 - volumes
_ENVIRONMENT = {
    "HOME": _SCRATCH,
    "MISTUDIO_SCRATCH": _SCRATCH,
    "MISTUDIO_CACHE": f"{_SCRATCH}/cache",
    "OMP_WAIT_POLICY": "PASSIVE",
}
# What the task's pod has and a host needs too; what is a secret comes by reference, and is left out here.
_HANDED_ON = (
    *("MISTUDIO_STORE", "MISTUDIO_TRACKING", "MISTUDIO_GIT_COMMIT", "MISTUDIO_IMAGE", "MISTUDIO_CACHE_GB"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_WORKSPACE", "KFP_MLFLOW_CONFIG"),
)
_SECRETS = {
    "mistudio-s3": ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"),
    "mistudio-signing": ("MISTUDIO_SIGNING_KEY",),
}
_POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def train_job(
    name: str, namespace: str, arguments: Sequence[str], hosts: HostsConfig, notes: Mapping[str, str]
) -> Object:
    """A TrainJob.

    Args:
        name: of it.
        namespace: where it is made.
        arguments: of ``mistudio``, which every process runs.
        hosts: how many, and what their pods are given.
        notes: what is written down with it.
    """
    image = hosts.image or os.environ.get("MISTUDIO_IMAGE")
    trainer: Object = {
        "numNodes": hosts.num_nodes,
        "numProcPerNode": hosts.processes,
        "command": _COMMAND,
        "args": list(arguments),
        "env": _environment(hosts),
        **({"image": image} if image else {}),
        **({"resourcesPerNode": hosts.pod.resources} if hosts.pod.resources else {}),
    }
    return {
        "apiVersion": TRAIN_JOBS.api_version,
        "kind": TRAIN_JOBS.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(OWNER),
            "annotations": {f"{PREFIX}/{key}": value for key, value in notes.items()},
            **_owner(),
        },
        "spec": {
            "runtimeRef": {"name": hosts.training_runtime},
            "trainer": trainer,
            "runtimePatches": [_patch(hosts)],
        },
    }


def _environment(hosts: HostsConfig) -> list[Object]:
    """The variables: those that the task was given win over what every host has."""
    given = {each["name"]: each for each in hosts.pod.environment}
    own = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
    plain = _ENVIRONMENT | {name: value for name, value in own.items() if secret_setting({name: value}) is None}
    known: dict[str, Object] = {name: {"name": name, "value": value} for name, value in plain.items()}
    for secret, names in _SECRETS.items():
        known |= {
            name: {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}}}
            for name in names
        }
    return list((known | given).values())


def _patch(hosts: HostsConfig) -> Object:
    """What the runtime's pods have beside the container's command, as the Pod Security profile restricted has it."""
    pod = hosts.pod
    taken = {str(each.get("mountPath", "")).rstrip("/") for each in pod.volume_mounts or []}
    writable = {name: path for name, path in _WRITABLE.items() if path not in taken}
    volumes = [{"name": name, "emptyDir": {}} for name in writable]
    mounts = [{"name": name, "mountPath": path} for name, path in writable.items()]
    container = {
        "name": CONTAINER,
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": [*mounts, *(pod.volume_mounts or [])],
    }
    spec: dict[str, Any] = {
        "securityContext": _POD_SECURITY,
        "volumes": [*volumes, *(pod.volumes or [])],
        "containers": [container],
    }
    optional = {"nodeSelector": pod.node_selector, "tolerations": pod.tolerations, "affinity": pod.affinity}
    spec |= {name: value for name, value in optional.items() if value}
    replicated = {"name": CONTAINER, "template": {"spec": {"template": {"spec": spec}}}}
    return {
        "manager": f"{PREFIX}/train",
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
    }


def _owner() -> Object:
    """The pod of the run that makes it, where KFP says which that is: with that it goes, whatever else fails."""
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    if not name or not uid:
        return {}
    return {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]}


def ended_as(job: Object) -> str:
    """Complete, Failed, or nothing where it goes on."""
    found = (job.get("status") or {}).get("conditions") or []
    true = {each["type"] for each in found if each["status"] == "True"}
    return next((name for name in ("Complete", "Failed") if name in true), "")


def message_of(job: Object, name: str) -> str:
    """What the Trainer says with a condition."""
    found = (job.get("status") or {}).get("conditions") or []
    return next((str(each.get("message") or "") for each in found if each["type"] == name), "")
