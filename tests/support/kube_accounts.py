"""Connections to the test cluster: a kubeconfig with a token, and a patience that fits tests."""

import json
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistudio.cluster.api import Cluster, Patience
from mistudio.stopping import stoppable
from tests.support.kube_api import KubeApi, role

DATA, SERVICES = "mistudio-data", "mistudio-services"
ACCOUNT = f"system:serviceaccount:{DATA}:mistudio-pipelines"
TOKEN = "token-of-the-pipelines-0123456789abcdef"
# All that the steps deploy and train_on_hosts do, as Roles: tests hold what was done against these.
_LOOK = (("", "pods", ["list"]), ("", "pods/log", ["get"]))
MAY_DEPLOY = role(
    SERVICES, ("serving.kserve.io", "inferenceservices", ("create", "delete", "get", "update")), *_LOOK, name="deploy"
)
MAY_TRAIN = role(DATA, ("trainer.kubeflow.org", "trainjobs", ("create", "delete", "get")), *_LOOK, name="train")
QUICK = Patience(connect_s=5, answer_s=5, total_s=20, first_wait_s=0.01, most_wait_s=0.05)


def kubeconfig(folder: Path, api: KubeApi, token: str = TOKEN, namespace: str = DATA) -> Path:
    """A kubeconfig with one context, ``test``."""
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": api.url}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path


def connected(folder: Path, api: KubeApi, monkeypatch: Any, patience: Patience = QUICK, token: str = TOKEN) -> Cluster:
    """As a person or a pod with that token."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(folder, api, token)))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return Cluster.connect(patience=patience)


def rules_of(rules: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, str]]:
    """Rules of Roles, or those that were used, as group, resource and verb one by one."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@contextmanager
def can_be_ended() -> Iterator[None]:
    """As a program: SIGTERM is there to be taken, also after a test in which it was."""
    usual = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with stoppable():
            yield
    finally:
        signal.signal(signal.SIGTERM, usual)
