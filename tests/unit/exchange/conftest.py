"""The tiny run that the evaluation's tests use too, with features found, explained and scored."""

import pytest

from mistudio.artifacts import Artifact
from mistudio.explain import ExplainConfig, explain
from mistudio.score import ScoreConfig, score
from tests.support.found import found_features
from tests.support.tiny_run import CPU, TinyRun, llama_run


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


@pytest.fixture(scope="session")
def features(llama: TinyRun) -> Artifact:
    return found_features(llama, map=True)


@pytest.fixture(scope="session")
def other_features(llama: TinyRun) -> Artifact:
    """Features of another autoencoder."""
    return found_features(llama, seed=1, map=True)


@pytest.fixture(scope="session")
def explanations(llama: TinyRun, features: Artifact) -> Artifact:
    return explain(llama.store, features, llama.source, CPU, ExplainConfig(block_features=32)).artifact


@pytest.fixture(scope="session")
def scores(llama: TinyRun, explanations: Artifact) -> Artifact:
    return score(llama.store, explanations, llama.source, CPU, ScoreConfig(resamples=20)).artifact
