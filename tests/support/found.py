"""Features found in the tiny run that the evaluation's tests use."""

import torch

from mistudio.artifacts import Artifact
from mistudio.find import FindConfig, find_features
from mistudio.sae import TopKConfig, new_autoencoder
from tests.support.tiny import WIDTH
from tests.support.tiny_run import CPU, TinyRun, publish_sae

NUM_FEATURES = 64
NUM_SILENT = 3


def found_features(run: TinyRun, seed: int = 0, **settings: bool) -> Artifact:
    """Features of an autoencoder with random directions, the first of which never fire; on no map unless told so."""
    sae = new_autoencoder(TopKConfig(width=NUM_FEATURES, k=4), WIDTH)
    sae.for_training().initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        sae.b_enc[:NUM_SILENT] = -1e4
    published = publish_sae(run.store, sae, run.activations)
    settings = {"map": False, **settings}  # the first map in a process takes eight seconds to compile
    config = FindConfig(contexts=6, context_before=5, context_after=3, lens_tokens=4, **settings)
    return find_features(run.store, published, run.source, CPU, config).artifact
