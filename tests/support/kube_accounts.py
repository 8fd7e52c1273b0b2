"""Connections to the test cluster: a kubeconfig with a token, and a patience that fits tests."""

import json
from pathlib import Path
from typing import Any

from mistudio.cluster.api import Cluster, Patience
from tests.support.kube_api import KubeApi

DATA, SERVICES = "mistudio-data", "mistudio-services"
ACCOUNT = f"system:serviceaccount:{DATA}:mistudio-pipelines"
TOKEN = "token-of-the-pipelines-0123456789abcdef"
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
