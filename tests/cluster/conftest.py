"""The images, built once for all tests here, on the engine that there is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.references import IMAGES, reference
from tests.support.engines import ROOT, Engine, an_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with an_engine() as found:
        if isinstance(found, str):
            pytest.skip(found)
        yield found


@pytest.fixture(scope="session")
def built(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of the CPU images, ``batch`` and ``serve``, as ``make images`` builds them."""
    log = tmp_path_factory.mktemp("images") / "log"
    command = [sys.executable, "-m", "images.build", "--engine", engine.command]
    command += ["--base", engine.base] if engine.base else []
    with log.open("w") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, check=False)
    assert done.returncode == 0, log.read_text()[-6000:]
    return {image.name: reference(image) for image in IMAGES if image.variant == "cpu"}


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that containers may write into, whoever they run as."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in list(folder.parents)[:3]:
        parent.chmod(0o755)
    return folder
