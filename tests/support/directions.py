"""Autoencoders with random directions, for tests that need one and do not train it."""

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae import SparseAutoencoder, new_autoencoder
from mistudio.sae.config import ArchitectureConfig


def random_directions(
    config: ArchitectureConfig, d_in: int, mean_D: Tensor | None = None, seed: int = 0
) -> SparseAutoencoder:
    """Unit directions, encoder and decoder alike; with ``mean_D`` latents count from that point."""
    sae = new_autoencoder(config, d_in).requires_grad_(requires_grad=False)
    sae.W_enc.copy_(functional.normalize(torch.randn(sae.W_enc.shape, generator=torch.Generator().manual_seed(seed))))
    sae.W_dec.copy_(sae.W_enc)
    if mean_D is not None:
        sae.b_enc.copy_(-(sae.W_enc @ mean_D))
    return sae
