"""The tiny run that the evaluation's tests use too, with features found, explained and scored."""

import pytest
import torch

from mistudio.artifacts import Artifact
from mistudio.explain import ExplainConfig, explain
from mistudio.find import FindConfig, find_features
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.score import ScoreConfig, score
from tests.support.tiny import WIDTH
from tests.unit.evaluate.tiny_run import CPU, TinyRun, make_llama_run, publish_sae

NUM_FEATURES = 64
NUM_SILENT = 3


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_llama_run(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def features(llama: TinyRun) -> Artifact:
    """Features of an autoencoder with random directions, the first of which never fire."""
    return find(llama, seed=0)


@pytest.fixture(scope="session")
def other_features(llama: TinyRun) -> Artifact:
    """Features of another autoencoder."""
    return find(llama, seed=1)


@pytest.fixture(scope="session")
def explanations(llama: TinyRun, features: Artifact) -> Artifact:
    return explain(llama.store, features, llama.source, CPU, ExplainConfig(block_features=32)).artifact


@pytest.fixture(scope="session")
def scores(llama: TinyRun, explanations: Artifact) -> Artifact:
    return score(llama.store, explanations, llama.source, CPU, ScoreConfig(resamples=20)).artifact


def find(llama: TinyRun, seed: int) -> Artifact:
    sae = new_autoencoder(TopKConfig(width=NUM_FEATURES, k=4), WIDTH)
    sae.initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        sae.b_enc[:NUM_SILENT] = -1e4
    published = publish_sae(llama.store, sae, llama.activations)
    config = FindConfig(contexts=6, context_before=5, context_after=3, lens_tokens=4, map=True)
    return find_features(llama.store, published, llama.source, CPU, config).artifact
