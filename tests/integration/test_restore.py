"""A lost store comes back from a backup as it was: every artifact, every name, the record of who did what."""

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from mistudio.artifacts import (
    Draft,
    Recipe,
    Store,
    Summary,
    actions,
    add_reference,
    find_reference,
    open_store,
    produce,
    record_action,
    verify,
    verify_actions,
)
from tests.support.s3_server import Access

SCRIPTS = Path(__file__).parents[2] / "manifests" / "components" / "backup"

pytestmark = [
    pytest.mark.skipif(shutil.which("rclone") is None, reason="needs rclone (apt-get install rclone)"),
    pytest.mark.skipif(not SCRIPTS.is_dir(), reason="there are no manifests beside the tests"),
]


def published(store: Store) -> list[str]:
    """Two artifacts, one from the other, a name, and what was recorded of it; the digests."""

    def build(draft: Draft) -> Summary:
        draft.write("deep/weights", os.urandom(100_000))
        return {"loss": 0.5}

    corpus = produce(store, Recipe(kind="corpus", config={}), "ingest", build).artifact
    sae = produce(store, Recipe(kind="sae", config={"k": 4}, inputs={"corpus": corpus.ref}), "train", build).artifact
    add_reference(store, "sae", "champion", sae, "ada")
    for artifact in (corpus, sae):
        record_action(store, "publish", artifact.uri, artifact.digest)
    return [corpus.digest, sae.digest]


@pytest.fixture
def buckets(s3_url: str, s3_access: Access) -> dict[str, str]:
    """Two new buckets, and how the scripts are told of them."""
    bucket, backup = f"lost-{uuid.uuid4().hex[:12]}", f"kept-{uuid.uuid4().hex[:12]}"
    for name in (bucket, backup):
        s3_access.make_bucket(name)
    remotes = {
        f"RCLONE_CONFIG_{remote}_{name}": value
        for remote in ("STORE", "BACKUP")
        for name, value in {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": s3_access.endpoint,
            "REGION": s3_access.environment["AWS_DEFAULT_REGION"],
            "ACCESS_KEY_ID": s3_access.access_key,
            "SECRET_ACCESS_KEY": s3_access.secret_key,
        }.items()
    }
    return {"BUCKETS": bucket, "BACKUP_BUCKET": backup, "RCLONE_CONFIG": "/dev/null", **remotes}


def run(script: str, settings: dict[str, str]) -> None:
    environment = {**os.environ, **settings}
    command = ["sh", str(SCRIPTS / script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bucket_that_is_lost_is_restored_to_the_byte(
    buckets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_SIGNING_KEY", "a key for signatures")
    url = f"s3://{buckets['BUCKETS']}/store"
    store = open_store(url)
    digests = published(store)
    before = {file.name: store.sha256(file.name) for file in store.stat()}
    head = verify_actions(store).head
    run("buckets-backup.sh", buckets)
    for name in list(store.list()):
        store.remove(name)
    assert list(store.list()) == []
    run("buckets-restore.sh", buckets)
    restored = open_store(url)
    assert {file.name: restored.sha256(file.name) for file in restored.stat()} == before
    verdicts = {verdict.uri: verdict for verdict in verify(restored)}
    assert len(verdicts) == 2
    assert all(not verdict.problems and not verdict.is_unsigned for verdict in verdicts.values())
    assert find_reference(restored, "sae", "champion").target.digest == digests[1]
    assert [each.record["digest"] for each in actions(restored)] == digests
    assert verify_actions(restored, head).problems == ()


def test_what_was_removed_since_the_last_backup_is_kept_aside(buckets: dict[str, str]) -> None:
    store = open_store(f"s3://{buckets['BUCKETS']}/store")
    published(store)
    run("buckets-backup.sh", buckets)
    lost = next(name for name in store.list() if name.endswith("deep/weights"))
    store.remove(lost)
    run("buckets-backup.sh", buckets)
    listed = subprocess.run(
        ["rclone", "lsf", "--recursive", f"backup:{buckets['BACKUP_BUCKET']}/replaced"],
        env={**os.environ, **buckets}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert lost in listed
