"""The locks hold what the images need, in the versions of constraints.txt, with a hash for each file."""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from images.locks import COMMAND, CUDA_EXTRAS, EXTRAS, NOT_NEEDED, locked
from images.references import IMAGES, Image

ROOT = Path(__file__).parents[2]
LOCKS = [
    ROOT / "images/torch.cpu.lock",
    ROOT / "images/torch.cuda.lock",
    *(ROOT / "images").glob("*/requirements.lock"),
]
BY_IMAGE = pytest.mark.parametrize("image", IMAGES, ids=lambda each: each.variable.lower())


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {normalised(name): version for name, version in pinned}


def versions(image: Image) -> dict[str, str]:
    return {name: version for lock in image.locks for name, version in locked(ROOT / lock).items()}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_package_of_a_lock_is_pinned_and_has_a_hash(lock: Path) -> None:
    entries = re.split(r"(?m)^(?=[a-z0-9])", lock.read_text(encoding="utf-8"))[1:]
    assert len(entries) == len(locked(lock)) > 0
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[\w.+]+(?: ; .+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n$", entry), entry


@BY_IMAGE
def test_locked_versions_are_those_of_the_constraints(image: Image) -> None:
    pinned, found = constraints(), versions(image)
    differing = {
        name: version for name, version in found.items() if pinned.get(name, version) != version.partition("+")[0]
    }
    assert differing == {}, f"run {COMMAND}"


@BY_IMAGE
def test_an_image_has_all_that_the_package_asks_for_and_nothing_of_development(image: Image) -> None:
    extras = {*EXTRAS[image.name], *(CUDA_EXTRAS if image.variant == "cuda" else ())}
    asked = set(_needed("mistudio", extras, set(NOT_NEEDED.get(image.name, ()))))
    found = set(versions(image))
    assert asked - found == set(), f"run {COMMAND}"
    assert {"pytest", "ruff", "mypy", "hypothesis", "playwright"}.isdisjoint(found)
    assert found.isdisjoint(NOT_NEEDED.get(image.name, ()))


def _needed(name: str, extras: set[str], left_out: set[str]) -> Iterator[str]:
    """The packages that one needs, with theirs, as those say that are installed here; not CUDA's, which need not be."""
    seen: set[tuple[str, str]] = set()
    open_ends = [(name, extra) for extra in ("", *extras)]
    while open_ends:
        package, extra = open_ends.pop()
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        for asked in _asked_by(package, extra):
            if asked.name not in left_out:
                open_ends += [(normalised(asked.name), each) for each in ("", *asked.extras)]
    return (package for package, _ in seen if package != name)


def _asked_by(package: str, extra: str) -> Iterator[Requirement]:
    linux = {"extra": extra, "sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}
    for text in importlib.metadata.requires(package) or []:
        asked = Requirement(text)
        asked.name = normalised(asked.name)
        if asked.marker is None or asked.marker.evaluate(linux):
            yield asked
