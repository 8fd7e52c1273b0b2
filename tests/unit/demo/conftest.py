"""A small standard library, and a demo subject that is trained on it in a few seconds."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from mistudio.artifacts import Artifact, open_store
from mistudio.demo import DemoConfig, train_demo

MODULES = (
    "argparse.py",
    "ast.py",
    "typing.py",
    "dataclasses.py",
    "pathlib.py",
    "shutil.py",
    "tarfile.py",
    "textwrap.py",
)

SMALL = DemoConfig(
    tokens=30_000,
    vocab_size=400,
    width=32,
    layers=2,
    heads=2,
    mlp_width=64,
    context_length=64,
    batch_tokens=1_024,
    evaluated_bytes=5_000,
    checkpoint_steps=4,
)


@pytest.fixture(scope="session")
def small_stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stdlib")
    for name in MODULES:
        shutil.copy(Path(sysconfig.get_paths()["stdlib"], name), folder / name)
    return folder


@pytest.fixture(scope="session")
def trained(small_stdlib: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return train_demo(store, SMALL, stdlib=small_stdlib).artifact
