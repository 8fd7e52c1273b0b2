"""Autoencoders of which the decoder is all that matters."""

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.artifacts import Artifact, Store
from mistudio.sae import StandardConfig, new_autoencoder
from tests.support.synthetic import plant, publish_activations
from tests.support.tiny_run import publish_sae

FEATURES, WIDTH = 96, 40


def dictionary(seed: int = 0, width: int = FEATURES) -> Tensor:
    return functional.normalize(torch.randn(width, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def published(store: Store, decoder_FD: Tensor, hook: str = "resid_post.1", target: str | None = None) -> Artifact:
    activations = publish_activations(store, plant(64, width=WIDTH).acts_ND)
    sae = new_autoencoder(StandardConfig(width=len(decoder_FD)), decoder_FD.shape[1])
    with torch.no_grad():
        sae.W_dec.copy_(decoder_FD)
        sae.b_enc.copy_(torch.arange(len(decoder_FD)) * decoder_FD[:, 0])  # other where only rows are exchanged
    return publish_sae(store, sae, activations, hook, target)
