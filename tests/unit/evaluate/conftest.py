"""The tiny runs, made once."""

import pytest

from tests.support.tiny_run import TinyRun, make_bert_run, make_llama_run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_llama_run(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_bert_run(tmp_path_factory.mktemp("bert"))
