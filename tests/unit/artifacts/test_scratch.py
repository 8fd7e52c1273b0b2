"""Where a machine keeps what is its own: in a local store that it writes, else in the user's cache."""

from pathlib import Path

import pytest

from mistudio.artifacts import open_store, scratch_folder
from mistudio.tracking import tracking_uri


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a cache beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MISTUDIO_SCRATCH", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_local_store_keeps_it_in_itself(tmp_path: Path, form: str) -> None:
    url = form.format(tmp_path / "store")
    assert scratch_folder(url) == tmp_path / "store" / ".mistudio"
    assert scratch_folder(open_store(url)) == tmp_path / "store" / ".mistudio"


def test_a_local_store_that_is_read_only_has_it_in_the_cache(tmp_path: Path) -> None:
    open_store(str(tmp_path / "store"))
    folder = scratch_folder(open_store(str(tmp_path / "store"), "r"))
    assert folder.is_relative_to(tmp_path / "cache")
    assert folder != scratch_folder("s3://bucket/store")


def test_no_store_elsewhere_makes_a_local_folder_of_its_name(tmp_path: Path, here: Path) -> None:
    folder = scratch_folder("s3://bucket/x")
    assert folder.is_relative_to(tmp_path / "cache")
    assert scratch_folder("s3://bucket/x/") == folder != scratch_folder("s3://bucket/y")
    assert tracking_uri("s3://bucket/x") == f"sqlite:///{folder / 'mlflow.db'}"
    assert folder.is_dir()
    assert list(here.iterdir()) == []


def test_another_folder_can_be_named_for_all_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "mine"))
    folders = {scratch_folder(url) for url in ("s3://bucket/x", str(tmp_path / "a"), str(tmp_path / "b"))}
    assert {folder.parent for folder in folders} == {tmp_path / "mine"}
    assert len(folders) == 3
