"""Folders that take a second to fill, filled once for all of a run's workers; each that wants one gets a copy."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """A copy, to do anything to, of what ``fill`` leaves in a folder; ``name`` tells it from others."""
    top = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent  # the folders of the workers lie beside each other
    kept = top / "shared" / name
    kept.parent.mkdir(exist_ok=True)
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which ends with the file's being open
        if not kept.exists():
            unfinished = factory.mktemp(name)
            fill(unfinished)
            unfinished.rename(kept)
    return shutil.copytree(kept, factory.mktemp(name), dirs_exist_ok=True)
