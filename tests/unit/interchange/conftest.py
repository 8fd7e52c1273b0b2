"""A store for each test, and autoencoders of every architecture with unrelated random weights."""

from pathlib import Path

import pytest

from mistudio.artifacts import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))
