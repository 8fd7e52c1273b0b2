"""The tiny run that the evaluation's tests use too, with features found in it."""

import pytest

from mistudio.artifacts import Artifact
from tests.support.found import found_features
from tests.support.tiny_run import TinyRun, llama_run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


@pytest.fixture(scope="session")
def features(llama: TinyRun) -> Artifact:
    return found_features(llama)
