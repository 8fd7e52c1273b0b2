"""A server of Kubeflow's pipelines API, and an environment that leads to it alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mistudio.runs import kubeflow, versions
from pipelines import _kfp
from tests.support.kfp_api import KfpServer

NAMESPACE = "mistudio-data"
TOKEN = "token-of-ci-0123456789"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def compiled_once() -> Iterator[None]:
    """Each pipeline is compiled once for each placement: below pytest kfp takes seconds, to look at its callers."""
    compiled, known = _kfp.compiled, {}

    def once(pipeline: Any, placement: Any = None) -> str:
        file = Path(placement) if placement else None
        key = pipeline.name, file.read_text(encoding="utf-8") if file and file.is_file() else str(file)
        if key not in known:
            known[key] = compiled(pipeline, placement)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_kfp, "compiled", once)
        yield


@pytest.fixture
def own_environment(compiled_once: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine leads to a cluster, and the store is the test's."""
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
