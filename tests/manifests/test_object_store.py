"""SeaweedFS, as the overlays start it, is a store: what the project asks of S3 holds there."""

import shutil
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from minio import Minio
from minio.error import S3Error

from checks.programs import STORE_KEYS, object_store
from mistudio.artifacts import Draft, Recipe, Summary, open_artifact, open_store, produce, verify
from tests.support.manifests import needed, needs_rendering

pytestmark = pytest.mark.proof

RECIPE = Recipe(kind="corpus", config={"of": "test"})


def client(url: str, secret: str = STORE_KEYS["AWS_SECRET_ACCESS_KEY"]) -> Minio:
    host = url.partition("://")[2]
    return Minio(host, STORE_KEYS["AWS_ACCESS_KEY_ID"], secret, secure=False, region="us-east-1")


def test_artifacts_are_published_once_and_outlive_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_rendering()
    needed("weed")
    for name, value in {**STORE_KEYS, "AWS_DEFAULT_REGION": "us-east-1", "MISTUDIO_CACHE": str(tmp_path / "c")}.items():
        monkeypatch.setenv(name, value)
    built = []

    def build(draft: Draft) -> Summary:
        built.append(draft)
        draft.write("deep/bytes", bytes(range(256)) * 40_000)
        return {"bytes": 10_240_000}

    volumes = tmp_path / "volumes"
    volumes.mkdir()
    with object_store(volumes) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        client(url).make_bucket("mistudio")
        made = produce(open_store("s3://mistudio/store"), RECIPE, "ingest", build).artifact
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    with object_store(volumes) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = open_store("s3://mistudio/store")
        assert open_artifact(store, made.uri).digest == made.digest
        assert [(each.uri, list(each.problems)) for each in verify(store)] == [(made.uri, [])]
        assert produce(store, RECIPE, "ingest", build).artifact.digest == made.digest
    assert len(built) == 1


def test_one_of_two_writers_wins_and_a_wrong_key_is_refused() -> None:
    needs_rendering()
    needed("weed")
    with object_store() as (url, _):
        s3 = client(url)
        s3.make_bucket("mistudio")
        place = s3.presigned_put_object("mistudio", "lease", expires=timedelta(minutes=5))
        only_new = {"If-None-Match": "*"}
        assert [httpx.put(place, content=b"x", headers=only_new).status_code for _ in range(2)] == [200, 412]
        with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
            client(url, "another-secret").list_buckets()
