"""Chosen latents are the columns of the dense matrix, in every architecture."""

import pytest
import torch
from torch import Tensor

from mistudio.errors import InputError
from mistudio.instrument import encode_chosen
from mistudio.sae import SparseAutoencoder, new_autoencoder
from mistudio.sae.registry import architecture_configs

WIDTH, D = 96, 24
SETTINGS = {"topk": {"k": 7}, "batchtopk": {"k": 7}, "matryoshka": {"k": 7, "prefixes": (24, 96)}}
LATENTS = [95, 0, 17, 0, 40, *range(60, 80)]


def rows(count: int = 400) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(1))


def make(architecture: str) -> SparseAutoencoder:
    config = architecture_configs()[architecture](width=WIDTH, **SETTINGS.get(architecture, {}))
    sae = new_autoencoder(config, D)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in sae.weight_names():
            weight = getattr(sae, name)
            weight.copy_(0.3 * torch.rand(weight.shape, generator=generator) - 0.05)
        sae.W_enc.copy_(torch.randn(WIDTH, D, generator=generator))
    return sae.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("architecture", sorted(architecture_configs()))
def test_chosen_latents_are_columns_of_the_dense_matrix(architecture: str) -> None:
    sae = make(architecture)
    dense_TF = sae.encode(rows())
    assert 0.005 < float((dense_TF > 0).float().mean()) < 0.7
    chosen_TL = encode_chosen(sae, rows(), LATENTS)
    torch.testing.assert_close(chosen_TL, dense_TF[:, LATENTS], rtol=1e-5, atol=1e-6)


def test_where_latents_compete_they_are_the_same_to_the_last_bit() -> None:
    sae = make("topk")
    torch.testing.assert_close(encode_chosen(sae, rows(), LATENTS), sae.encode(rows())[:, LATENTS], rtol=0, atol=0)


@pytest.mark.parametrize("architecture", sorted(architecture_configs()))
def test_no_tokens_and_no_latents_give_empty_matrices(architecture: str) -> None:
    assert encode_chosen(make(architecture), rows(0), [3, 4]).shape == (0, 2)
    assert encode_chosen(make(architecture), rows(5), []).shape == (5, 0)


@pytest.mark.parametrize("latent", [-1, WIDTH])
def test_a_latent_that_is_not_there_is_refused(latent: int) -> None:
    with pytest.raises(InputError, match=f"no latent {latent}"):
        encode_chosen(make("topk"), rows(), [0, latent])
