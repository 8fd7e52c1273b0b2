"""The tiny run that the evaluation's tests use too."""

import pytest

from tests.support.tiny_run import TinyRun, llama_run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)
