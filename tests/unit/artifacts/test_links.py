"""Links, and other things that no store writes: nothing behind one is read, written or removed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mistudio.artifacts import Catalog, Draft, Store, open_artifact, remove_artifact, verify
from mistudio.artifacts.local import LocalStore
from mistudio.errors import DamagedArtifact, NotFound, StorageError
from tests.unit.artifacts.conftest import Publish


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the store that looks like an artifact."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    (folder / "weights").write_text("precious")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Where a link may be put, and the name of a file behind it.
WAYS = {"the kind": ("sae", "sae/weights"), "the artifact": ("sae/1", "sae/1/weights")}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_done_through_a_linked_folder(store: LocalStore, outside: Path, way: str) -> None:
    link, file = WAYS[way]
    (store.root / link).parent.mkdir(exist_ok=True)
    (store.root / link).symlink_to(outside)
    before = content(outside)
    refused: list[Callable[[], object]] = [
        lambda: store.put(file).__enter__(),
        lambda: store.create(f"{link}/new", b""),
        lambda: store.remove(file),
    ]
    for change in refused:
        with pytest.raises(StorageError, match=f"{link} is a link, and a store follows none"):
            change()
    absent: list[Callable[[], object]] = [
        lambda: remove_artifact(store, link),
        lambda: open_artifact(store, link),
        lambda: store.fetch(file),
        lambda: store.read(file),
        lambda: store.sha256(file),
    ]
    for use in absent:
        with pytest.raises(NotFound, match=f"{link} is a link"):
            use()
    assert store.find(file) is None
    assert list(store.list()) == list(store.list(link)) == list(store.strays(link)) == list(store.folders(link)) == []
    assert Catalog(store).entries() == []
    assert content(outside) == before


def test_a_file_that_is_a_link_is_missing_whatever_it_leads_to(
    store: LocalStore, publish: Publish, tmp_path: Path
) -> None:
    artifact = publish()
    file = store.root / artifact.uri / "weights"
    (tmp_path / "same").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "same")
    expected = f"{artifact.uri}/weights is missing .*{artifact.uri}/weights is a link"
    with pytest.raises(DamagedArtifact, match=expected):
        artifact.file("weights")
    (verdict,) = verify(store)
    assert len(verdict.problems) == 1
    assert "is a link" in verdict.problems[0]


def test_of_links_in_an_artifact_that_is_removed_go_the_links(
    store: LocalStore, publish: Publish, outside: Path
) -> None:
    artifact = publish()
    folder = store.root / artifact.uri
    before = content(outside)
    (folder / "weights").unlink()
    (folder / "weights").symlink_to(outside / "weights")
    (folder / "deep" / "more").symlink_to(outside)
    (folder / "work").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    remove_artifact(store, artifact.uri)
    assert not folder.exists()
    assert content(outside) == before


def test_a_link_takes_no_name_and_is_written_over_by_a_file(store: LocalStore, outside: Path) -> None:
    (store.root / "sae" / "1").mkdir(parents=True)
    (store.root / "sae" / "1" / "weights").symlink_to(outside / "weights")
    (store.root / "sae" / "1" / "manifest.json").symlink_to(outside / "nothing")
    Draft(store, "sae/1").write("weights", b"ours")
    assert store.read("sae/1/weights") == b"ours"
    assert (outside / "weights").read_text() == "precious"
    with pytest.raises(StorageError, match=r"sae/1/manifest\.json is a link"):
        store.create("sae/1/manifest.json", b"")
    assert not (outside / "nothing").exists()


def test_a_lock_that_is_a_link_is_not_written_to(store: LocalStore, outside: Path) -> None:
    (store.root / ".mistudio" / "locks" / "sae@1").symlink_to(outside / "weights")
    with pytest.raises(StorageError, match="Cannot lock sae/1"), store.lease("sae/1"):
        pass
    assert (outside / "weights").read_text() == "precious"


def test_a_linked_folder_of_staged_files_is_not_swept(store: LocalStore, outside: Path) -> None:
    staging = store.root / ".mistudio" / "staging"
    staging.rmdir()
    staging.symlink_to(outside)
    (outside / "sae@1@weights").write_text("precious")
    os.utime(outside / "sae@1@weights", (0, 0))
    assert store.sweep() == store.sweep("sae/1") == 0
    assert (outside / "sae@1@weights").exists()


def test_the_root_of_a_store_may_be_a_link(tmp_path: Path, store: Store, publish: Publish) -> None:
    artifact = publish()
    (tmp_path / "elsewhere").symlink_to(store.url)
    assert open_artifact(LocalStore(tmp_path / "elsewhere"), artifact.uri).file("weights").read_bytes() == b"0123456789"
