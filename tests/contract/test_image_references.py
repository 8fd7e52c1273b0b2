"""The names of the images follow their content, and stand where they are read."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components import images as read_by_components
from images.references import COMMAND, IMAGES, KUSTOMIZATION, REFS, outdated, reference, references

ROOT = Path(__file__).parents[2]
FILES = ("LICENSE", "setup.py", "pyproject.toml", ".dockerignore")
FOLDERS = ("src", "components", "images", "model_servers", "pipelines", "manifests/components/images")
[BATCH, BATCH_CUDA, SERVE, SERVE_CUDA] = IMAGES


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, which a test that changes it puts right again."""
    folder = tmp_path_factory.mktemp("checkout")
    for each in FOLDERS:
        shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
    for each in FILES:
        shutil.copy(ROOT / each, folder)
    return folder


@contextmanager
def changed_to(path: Path, text: str) -> Iterator[None]:
    before = path.read_text(encoding="utf-8") if path.exists() else None
    path.write_text(text, encoding="utf-8")
    yield
    if before is None:
        path.unlink()
    else:
        path.write_text(before, encoding="utf-8")


def test_the_names_that_are_written_are_those_of_this_checkout() -> None:
    assert outdated() == [], f"run {COMMAND}, and commit what it writes"


def test_compilation_reads_the_names_that_are_written() -> None:
    assert reference(BATCH) == read_by_components.BATCH_IMAGE, f"run {COMMAND}"
    assert reference(BATCH_CUDA) == read_by_components.BATCH_CUDA_IMAGE, f"run {COMMAND}"


def test_every_image_has_a_name_of_its_own_and_kfps_local_runner_takes_the_batch_image() -> None:
    assert len(set(references().values())) == len(IMAGES)
    assert all(re.fullmatch(r"[a-z./-]+:[0-9a-f]{16}", name) for name in references().values())
    assert all("python" in reference(image) for image in (BATCH, BATCH_CUDA))


@pytest.mark.parametrize(
    ("changed", "renamed"),
    [
        ("src/mistudio/version.py", set(IMAGES)),
        ("components/train/component.py", set(IMAGES)),
        ("pipelines/interpret.py", set(IMAGES)),
        ("model_servers/__main__.py", set(IMAGES)),
        ("images/trim.sh", set(IMAGES)),
        ("images/batch/Containerfile", {BATCH, BATCH_CUDA}),
        ("images/serve/requirements.lock", {SERVE, SERVE_CUDA}),
        ("images/torch.cuda.lock", {BATCH_CUDA, SERVE_CUDA}),
        ("images/refs.env", set()),
        ("pipelines/compiled/interpret.yaml", set()),
    ],
)
def test_a_change_of_what_is_in_an_image_changes_its_name(checkout: Path, changed: str, renamed: set[object]) -> None:
    before, path = references(checkout), checkout / changed
    with changed_to(path, f"{path.read_text()}# changed\n"):
        after = references(checkout)
    assert {image for image in IMAGES if before[image] != after[image]} == renamed


def test_a_file_that_is_new_or_elsewhere_changes_the_names(checkout: Path) -> None:
    before = references(checkout)
    with changed_to(checkout / "src/mistudio/new.py", "NEW = 1\n"):
        new = references(checkout)
    with changed_to(checkout / "src/mistudio/newer.py", "NEW = 1\n"):
        newer = references(checkout)
    assert len({before[BATCH], new[BATCH], newer[BATCH]}) == 3
    assert references(checkout) == before


def test_settings_of_tools_and_extras_change_no_name_and_what_the_package_needs_does(checkout: Path) -> None:
    path, before = checkout / "pyproject.toml", references(checkout)
    text = path.read_text()
    with changed_to(path, text.replace("line-length = 120", "line-length = 121").replace('"pytest>=', '"pytest >=')):
        assert references(checkout) == before
    with changed_to(path, text.replace('"numpy>=2.0"', '"numpy>=2.1"')):
        assert references(checkout)[BATCH] != before[BATCH]


@pytest.mark.parametrize("stale", [str(REFS), str(KUSTOMIZATION), "pipelines/compiled/sweep.yaml"])
def test_a_name_that_is_outdated_is_told_by_its_file(checkout: Path, stale: str) -> None:
    before, path = set(outdated(checkout)), checkout / stale
    with changed_to(path, re.sub("[0-9a-f]{16}", "0" * 16, path.read_text())):
        assert set(outdated(checkout)) == before | {stale}
