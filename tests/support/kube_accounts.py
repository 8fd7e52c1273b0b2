"""Connections to the test cluster: a kubeconfig with a token, and a patience that fits tests."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mistudio.cluster.api import Cluster, Patience
from mistudio.stopping import stoppable
from tests.support.kube_api import KubeApi

DATA, SERVICES = "mistudio-data", "mistudio-services"
ACCOUNT = f"system:serviceaccount:{DATA}:mistudio-pipelines"
TOKEN = "token-of-the-pipelines-0123456789abcdef"
_ROOT = Path(__file__).parents[2]
_RIGHTS = _ROOT / "manifests" / "base" / "rights.yaml"
_CALLS = _ROOT / "checks" / "calls" / "mistudio-pipelines.json"
QUICK = Patience(connect_s=5, answer_s=5, total_s=20, first_wait_s=0.01, most_wait_s=0.05)


def role_of(name: str) -> dict[str, Any]:
    """A Role as the manifests have it."""
    found = yaml.safe_load_all(_RIGHTS.read_text(encoding="utf-8"))
    (own,) = (each for each in found if each["kind"] == "Role" and each["metadata"]["name"] == name)
    return dict(own)


MAY_DEPLOY, MAY_TRAIN = role_of("mistudio-deploy"), role_of("mistudio-train")


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


def calls_in(namespace: str) -> list[dict[str, Any]]:
    """What the code calls in a namespace as the account of runs, by which the checks of manifests judge their Roles."""
    return [each for each in json.loads(_CALLS.read_text(encoding="utf-8")) if each["namespace"] == namespace]


@contextmanager
def can_be_ended() -> Iterator[None]:
    """As a program: SIGTERM is there to be taken, also after a test in which it was."""
    usual = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with stoppable():
            yield
    finally:
        signal.signal(signal.SIGTERM, usual)
