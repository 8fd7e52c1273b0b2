"""The wheels of an image, fetched by this machine's pip with its own settings, so that a build needs no network.

Whatever mirror, proxy or password pip has here stays here: the build sees files alone, and takes those whose hash the
lock has. Files are kept in ``build/wheels`` and found again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from images.locks import TORCH_INDEX, locked
from images.platforms import PYTHON, platform_tags
from images.references import ROOT, Image

WHEELS = Path("build/wheels-of-this-build")
"""What the build is given, below the root: hard links, so that nothing of another image goes with it."""
_KEPT = Path("build/wheels")


def gather(image: Image, architecture: str, root: Path = ROOT) -> Path:
    """Fetch what an image is installed from; the folder, below the root, that the Containerfile takes it from.

    Raises:
        subprocess.CalledProcessError: pip could not get a file.
    """
    torch_lock, lock = image.locks
    shutil.rmtree(root / WHEELS, ignore_errors=True)
    for kind, path in (("torch", torch_lock), ("packages", lock)):
        kept = root / _KEPT / architecture / (image.variant if kind == "torch" else image.name)
        _fetch(root / path, kept, architecture)
        _link(_files_of(kept, locked(root / path)), root / WHEELS / kind)
    return WHEELS


def _fetch(lock: Path, folder: Path, architecture: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tags = [part for tag in platform_tags(architecture) for part in ("--platform", tag)]
    python = f"{PYTHON[0]}{PYTHON[1]}"
    abis = [part for abi in (f"cp{python}", "abi3", "none") for part in ("--abi", abi)]
    target = ["--python-version", python, "--implementation", "cp", *abis, *tags]
    # What has no wheel comes as source, whose hash is in the lock, and is built where everything is installed.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *target]
    command += ["--requirement", str(lock), "--dest", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:  # noqa: S603 - no shell
        # Most package indexes have no CPU build of torch. The hashes say that it is the right one.
        subprocess.run([*command, "--extra-index-url", TORCH_INDEX], check=True)  # noqa: S603


def _files_of(folder: Path, versions: dict[str, str]) -> Iterable[Path]:
    """The files of these versions: the folder may hold others, of earlier locks."""
    for path in folder.iterdir():
        name, version = path.name.replace(".tar.gz", "").split("-")[:2]
        if versions.get(name.replace("_", "-").replace(".", "-").lower()) == version:
            yield path


def _link(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in files:
        os.link(path, folder / path.name)
