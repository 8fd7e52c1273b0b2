"""The tiny runs, made once, with an autoencoder of each."""

import gc
from collections.abc import Iterator

import pytest

from mistudio.activations import ActivationReader
from mistudio.artifacts import Artifact
from mistudio.sae import BatchTopKConfig, SparseAutoencoder, TopKConfig
from tests.support.directions import random_directions
from tests.support.labelled_texts import source, store  # noqa: F401 - fixtures
from tests.support.tiny import WIDTH, tiny_documents
from tests.support.tiny_run import HOOK, TinyRun, bert_run, llama_run, publish_sae


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return bert_run(tmp_path_factory)


@pytest.fixture(scope="session")
def sae(llama: TinyRun) -> Artifact:
    """A TopK autoencoder of the llama."""
    return publish_sae(llama.store, fitted(llama, TopKConfig(width=64, k=6)), llama.activations)


@pytest.fixture(scope="session")
def thresholded(llama: TinyRun) -> Artifact:
    """One whose latents are active above a threshold."""
    made = fitted(llama, BatchTopKConfig(width=96, k=6))
    made.threshold.fill_(0.3)
    return publish_sae(llama.store, made, llama.activations)


def fitted(run: TinyRun, config: TopKConfig | BatchTopKConfig) -> SparseAutoencoder:
    """Random directions around the mean of the activations."""
    sample_ND = ActivationReader(run.activations, HOOK, "train").acts(0, 200).float()
    return random_directions(config, WIDTH, sample_ND.mean(dim=0), seed=3)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """The documents of the tiny corpus, many longer than a sequence of it, and a text without a token."""
    return ["", "naïve café 猫 sat", *(document["text"] for document in tiny_documents())]


@pytest.fixture(scope="module")
def _little_to_collect() -> Iterator[None]:
    """Garbage collection leaves alone what is there: transformers' batches collect when they go, half a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
