"""The tiny run that the evaluation's tests use too, with features found in it."""

import pytest
import torch

from mistudio.artifacts import Artifact
from mistudio.find import FindConfig, find_features
from mistudio.sae import TopKConfig, new_autoencoder
from tests.support.tiny import WIDTH
from tests.unit.evaluate.tiny_run import CPU, TinyRun, make_llama_run, publish_sae

NUM_SILENT = 3


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_llama_run(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def features(llama: TinyRun) -> Artifact:
    """Features of an autoencoder with random directions, the first of which never fire."""
    sae = new_autoencoder(TopKConfig(width=64, k=4), WIDTH)
    sae.initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_enc[:NUM_SILENT] = -1e4
    published = publish_sae(llama.store, sae, llama.activations)
    config = FindConfig(contexts=6, context_before=5, context_after=3, lens_tokens=4)
    return find_features(llama.store, published, llama.source, CPU, config).artifact
