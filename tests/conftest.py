"""What all tests share: no file that they write has to survive a loss of power; a real S3 server for those that ask."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import s3_server

_BUCKET = "tests"


@pytest.fixture(autouse=True, scope="session")
def _files_need_not_survive_a_power_cut() -> Iterator[None]:
    """Waiting for the disk takes as long as all the rest where a store has many small files.

    Processes that a test starts wait for it, as always.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(scope="session")
def s3_access(tmp_path_factory: pytest.TempPathFactory) -> s3_server.Access:
    """A real S3 server, which all workers of a run share; skipped where its packages are not installed."""
    if missing := s3_server.missing_programs():
        pytest.skip(f"{', '.join(missing)} not found: apt-get install {s3_server.PACKAGES}")
    top = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent  # the folders of the workers lie beside each other
    access = s3_server.shared_server(top / "s3-server")
    access.make_bucket(_BUCKET)
    return access


@pytest.fixture
def s3_url(s3_access: s3_server.Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store in a bucket; this process and its children know the server, and share a cache."""
    for name, value in s3_access.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE", "MISTUDIO_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MISTUDIO_CACHE", str(tmp_path / "s3-cache"))
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "s3-scratch"))
    return f"s3://{_BUCKET}/{uuid.uuid4().hex}"
