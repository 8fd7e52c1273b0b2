"""The tiny run that the evaluation's tests use too."""

import pytest

from tests.support.tiny_run import TinyRun, make_llama_run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_llama_run(tmp_path_factory.mktemp("llama"))
