"""A server of Kubeflow's pipelines API, and an environment that leads to it alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.runs import kubeflow, versions
from tests.support.kfp_api import KfpServer

NAMESPACE = "mistudio-data"
TOKEN = "token-of-ci-0123456789"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine leads to a cluster, and the store is the test's."""
    import os

    for name in os.environ:
        if name.startswith(("MISTUDIO_KFP_", "KF_PIPELINES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("MISTUDIO_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(versions, "_commit", lambda _folder: (COMMIT, True))
    monkeypatch.setattr(kubeflow.time, "sleep", lambda _seconds: None)


@pytest.fixture
def server(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[KfpServer]:
    """A server of several users, of whom one is let in by the token of the environment."""
    with KfpServer(tokens={TOKEN: {NAMESPACE}}, multi_user=True) as started:
        monkeypatch.setenv("MISTUDIO_KFP_HOST", started.url)
        monkeypatch.setenv("MISTUDIO_KFP_TOKEN", TOKEN)
        monkeypatch.setenv("MISTUDIO_KFP_NAMESPACE", NAMESPACE)
        yield started
