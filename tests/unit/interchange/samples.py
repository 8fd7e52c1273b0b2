"""Autoencoders with random, unrelated weights; biases, thresholds and skip included."""

import torch
from torch import Tensor
from torch.testing import assert_close

from mistudio.sae import SparseAutoencoder, new_autoencoder
from tests.support.naive_sae import small_config

WIDTH, D_IN, TOKENS = 64, 12, 50
ARCHITECTURES = ("standard", "gated", "topk", "batchtopk", "matryoshka", "jumprelu")


def make(name: str, d_out: int = D_IN, **settings: object) -> SparseAutoencoder:
    sae = new_autoencoder(small_config(name, WIDTH, **settings), D_IN, d_out)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in sae.weight_names():
            value = getattr(sae, weight)
            value.copy_(torch.randn(value.shape, generator=generator) * 0.4)
            if weight == "threshold":
                value.fill_(0.9)
    return sae.requires_grad_(False)


def rows(width: int = D_IN) -> Tensor:
    return torch.randn(TOKENS, width, generator=torch.Generator().manual_seed(5)) + 0.3


def assert_same(sae: SparseAutoencoder, other: SparseAutoencoder) -> None:
    """Equal encodings and reconstructions, neither of them empty."""
    x_TD = rows(sae.d_in)
    acts_TF = sae.encode(x_TD)
    assert 0 < (acts_TF > 0).float().mean() < 0.7
    assert_close(other.encode(x_TD), acts_TF, atol=1e-5, rtol=1e-4)
    assert_close(other.reconstruct(x_TD), sae.reconstruct(x_TD), atol=1e-5, rtol=1e-4)
