"""The tiny runs, made once."""

import pytest

from tests.support.tiny_run import TinyRun, bert_run, llama_run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return bert_run(tmp_path_factory)
