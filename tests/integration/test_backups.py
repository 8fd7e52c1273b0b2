"""Backups and restores as the manifests run them, on a real S3 server and a real Postgres."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from checks.rendering import MANIFESTS, rendered
from checks.replay import environment_of
from mistudio.artifacts import open_artifact, open_store, verify
from mistudio.errors import MistudioError
from tests.support import postgres, s3_server
from tests.support.manifests import needed, needs_rendering
from tests.support.tiny import tiny_corpus, tiny_llama

pytestmark = pytest.mark.proof

SCRIPTS = MANIFESTS / "components" / "backup"
STORE = "s3://mistudio/store"


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Postgres]:
    if postgres.programs() is None:
        pytest.skip(f"Postgres is not installed: apt-get install {postgres.PACKAGE}")
    with postgres.serving() as server:
        yield server


class Cluster:
    """Runs the containers of jobs here: their scripts and variables, with this machine's servers as the cluster's."""

    def __init__(self, folder: Path, access: s3_server.Access, database: postgres.Postgres) -> None:
        needs_rendering()
        needed("rclone")
        self._folder = folder
        self._values = {**database.environment, "DUMP_FOLDER": str(folder), "HOME": str(folder)}
        self._values |= access.environment | {
            "RCLONE_S3_ENDPOINT": access.endpoint,
            "RCLONE_S3_REGION": s3_server.REGION,
        }
        for name in ("STORE", "BACKUP"):
            own = {"ENDPOINT": access.endpoint, "REGION": s3_server.REGION}
            own |= {"ACCESS_KEY_ID": access.access_key, "SECRET_ACCESS_KEY": access.secret_key}
            self._values |= {f"RCLONE_CONFIG_{name}_{key}": value for key, value in own.items()}
        self._programs = database.programs
        host = access.endpoint.partition("://")[2]
        self.s3 = Minio(host, access.access_key, access.secret_key, secure=False, region=s3_server.REGION)

    def job(self, name: str, **others: str) -> None:
        """Run a job's containers, one after the other.

        Raises:
            subprocess.CalledProcessError: one failed.
        """
        for container in containers_of_job(name):
            self._run(container, others)

    def _run(self, container: Mapping[str, Any], others: Mapping[str, str]) -> None:
        words = [*container["command"], *container.get("args", ())]
        words = [word.replace("/scripts", str(SCRIPTS)) for word in words]
        given = environment_of(container, self._values)
        # As in the container, whose variables are all that there are; but for the port and the folder of the dump.
        known = {name: self._values[name] for name in ("PGPORT", "DUMP_FOLDER")}
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            words, env={"PATH": path, **known, **given, **others}, check=True, capture_output=True, text=True
        )

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """Objects of a bucket."""
        return sorted(str(each.object_name) for each in self.s3.list_objects(bucket, prefix, recursive=True))


def containers_of_job(name: str) -> list[Mapping[str, Any]]:
    for document in rendered()["microk8s"]:
        if document["kind"] in ("Job", "CronJob") and document["metadata"]["name"] == name:
            spec = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
            return [*spec.get("initContainers", ()), *spec["containers"]]
    raise LookupError(name)


@pytest.fixture
def cluster(
    tmp_path: Path, s3_access: s3_server.Access, database: postgres.Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    for name, value in {**s3_access.environment, "MISTUDIO_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    database.run("postgres", "DROP DATABASE IF EXISTS mlflow", "CREATE DATABASE mlflow")
    made = Cluster(tmp_path, s3_access, database)
    made.job("buckets")
    yield made
    for bucket in ("mistudio", "mlflow", "mistudio-backups"):
        for name in made.names(bucket):
            made.s3.remove_object(bucket, name)


def test_artifacts_that_were_lost_come_back_whole(cluster: Cluster, tmp_path: Path) -> None:
    corpus = tiny_corpus(open_store(STORE), tiny_llama(tmp_path / "model"), tmp_path / "text")
    before = cluster.names("mistudio")
    cluster.job("buckets-backup")
    for name in before:
        cluster.s3.remove_object("mistudio", name)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    with pytest.raises(MistudioError):
        open_artifact(open_store(STORE), corpus.uri)
    cluster.job("buckets-restore")
    assert cluster.names("mistudio") == before
    store = open_store(STORE)
    assert open_artifact(store, corpus.uri).digest == corpus.digest
    (verdict,) = verify(store)
    assert verdict.uri == corpus.uri
    assert not verdict.problems


def test_what_was_changed_or_removed_is_kept_until_it_is_too_old(cluster: Cluster, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("one")
    second.write_text("two, which is longer")
    cluster.s3.fput_object("mlflow", "changed", str(first))
    cluster.s3.fput_object("mlflow", "removed", str(first))
    cluster.job("buckets-backup")
    cluster.s3.fput_object("mlflow", "changed", str(second))
    cluster.s3.remove_object("mlflow", "removed")
    cluster.job("buckets-backup")
    assert cluster.names("mistudio-backups", "current/mlflow/") == ["current/mlflow/changed"]
    kept = cluster.names("mistudio-backups", "replaced/")
    assert [name.rpartition("/")[2] for name in kept] == ["changed", "removed"]
    cluster.job("backup-prune")
    assert cluster.names("mistudio-backups", "replaced/") == kept
    cluster.job("backup-prune", KEEP="0s")
    assert cluster.names("mistudio-backups") == ["current/mlflow/changed"]


def test_the_database_comes_back_as_it_was(cluster: Cluster, database: postgres.Postgres) -> None:
    run = database.run
    run("mlflow", "CREATE TABLE runs (id serial PRIMARY KEY, name text NOT NULL)")
    run("mlflow", "CREATE TABLE metrics (run integer REFERENCES runs, value double precision)")
    run("mlflow", "INSERT INTO runs (name) SELECT 'run ' || n FROM generate_series(1, 500) n")
    run("mlflow", "INSERT INTO metrics SELECT id, id / 7.0 FROM runs")
    asked = "SELECT count(*), sum(value), (SELECT md5(string_agg(name, ',' ORDER BY id)) FROM runs) FROM metrics"
    before = run("mlflow", asked)
    cluster.job("database-backup")
    run("mlflow", "DELETE FROM metrics", "ALTER TABLE metrics DROP COLUMN value", "TRUNCATE runs CASCADE")
    cluster.job("database-restore")
    assert run("mlflow", asked) == before
    run("mlflow", "INSERT INTO runs (name) VALUES ('the next')")
    assert run("mlflow", "SELECT max(id) FROM runs") == "501"


def test_a_dump_that_is_damaged_changes_nothing(cluster: Cluster, database: postgres.Postgres, tmp_path: Path) -> None:
    database.run("mlflow", "CREATE TABLE runs AS SELECT n AS id FROM generate_series(1, 1000) n")
    cluster.job("database-backup")
    (name,) = cluster.names("mistudio-backups", "databases/")
    dump = tmp_path / "database.dump"
    dump.write_bytes(dump.read_bytes()[:-400])
    cluster.s3.fput_object("mistudio-backups", name, str(dump))
    with pytest.raises(subprocess.CalledProcessError):
        cluster.job("database-restore")
    assert database.run("mlflow", "SELECT count(*) FROM runs") == "1000"


def test_a_restore_without_a_dump_says_so(cluster: Cluster) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        cluster.job("database-restore")
    assert "There is no dump in mistudio-backups/databases." in failed.value.stderr


def test_the_newest_dump_is_never_too_old(cluster: Cluster) -> None:
    cluster.job("database-backup")
    (name,) = cluster.names("mistudio-backups", "databases/")
    cluster.job("backup-prune", KEEP="0s")
    assert cluster.names("mistudio-backups", "databases/") == [name]
