"""Chosen latents of a TopK autoencoder without computing all: the same values, whatever is left out."""

import pytest
import torch

from mistudio.monitor.watch.pooling import NOTHING, tops
from mistudio.monitor.watch.topk_columns import TopKColumns, column_reader
from mistudio.sae import BatchTopKConfig, GatedConfig, JumpReLUConfig, NormLimit, StandardConfig, TopKConfig
from mistudio.sae.config import ArchitectureConfig
from mistudio.sae.topk import TopKAutoencoder
from tests.support.directions import random_directions

WIDTH, F, K = 24, 1024, 8


def autoencoder(dense: int = 64) -> TopKAutoencoder:
    """Some latents are active far more often than others, as in trained ones."""
    sae = random_directions(TopKConfig(width=F, k=K, allow_wide=True), WIDTH, seed=1)
    assert isinstance(sae, TopKAutoencoder)
    with torch.no_grad():
        sae.b_enc[100 : 100 + dense] += 2.0
    return sae


def inputs(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("latents", [[3], [3, 100, 17, 3], list(range(0, F, 5))])
@pytest.mark.parametrize("limited", [False, True])
def test_values_are_those_of_the_whole_encoder_before_and_after_rivals_are_known(
    latents: list[int], limited: bool
) -> None:
    sae = autoencoder()
    if limited:
        sae.norm_limit = NormLimit(torch.zeros(WIDTH), 5.0)
    columns = TopKColumns(sae, torch.tensor(latents))
    for seed in range(12):
        x_ND = inputs(600, seed)
        torch.testing.assert_close(columns(x_ND), sae.encode_chosen(x_ND, torch.tensor(latents)))


def test_most_tokens_are_decided_without_all_latents_where_the_chosen_fire_seldom() -> None:
    sae = autoencoder()
    columns = TopKColumns(sae, torch.tensor([3, 17, 400]))
    for seed in range(6):
        columns(inputs(1000, seed))
    before = columns.tokens_in_full
    x_ND = inputs(4000, 50)
    found = columns(x_ND)
    assert columns.tokens_in_full - before < 0.15 * len(x_ND)
    torch.testing.assert_close(found, sae.encode_chosen(x_ND, torch.tensor([3, 17, 400])))
    assert bool((found > 0).any())


def test_equals_compete_for_the_last_place_as_in_the_whole_encoder() -> None:
    sae = autoencoder()
    with torch.no_grad():
        sae.W_enc[200:400] = sae.W_enc[3]
        sae.b_enc[200:400] = sae.b_enc[3] = 3.0
    latents_C = torch.tensor([3, 250, 399])
    x_ND = inputs(64, 0)
    torch.testing.assert_close(TopKColumns(sae, latents_C)(x_ND), sae.encode_chosen(x_ND, latents_C))


@pytest.mark.parametrize(
    "config",
    [
        JumpReLUConfig(width=F, initial_threshold=0.5, allow_wide=True),
        GatedConfig(width=F, allow_wide=True),
        StandardConfig(width=F, allow_wide=True),
        BatchTopKConfig(width=F, k=4, allow_wide=True),
    ],
)
@pytest.mark.parametrize("limited", [False, True])
def test_latents_that_do_not_compete_are_read_by_their_rows(config: ArchitectureConfig, limited: bool) -> None:
    sae = random_directions(config, WIDTH, seed=1)
    if isinstance(config, GatedConfig):
        with torch.no_grad():
            sae.b_mag.fill_(-0.3)  # type: ignore[union-attr, operator]
    if limited:
        sae.norm_limit = NormLimit(torch.zeros(WIDTH), 5.0)
    x_D = inputs(30, 0).view(5, 6, WIDTH)
    read = column_reader(sae, [5, 900])
    torch.testing.assert_close(read(x_D), sae.encode(x_D.flatten(0, 1))[:, [5, 900]].view(5, 6, 2))


@pytest.mark.parametrize("width", [3, 200])
@pytest.mark.parametrize("tokens", [1, 31, 32, 77])
@pytest.mark.parametrize("most", [1, 4])
def test_largest_values_and_places_are_those_of_a_plain_search(width: int, tokens: int, most: int) -> None:
    draw = torch.Generator().manual_seed(tokens)
    value_BTU = torch.randn(3, tokens, width, generator=draw)
    counts_BT = torch.rand(3, tokens, generator=draw) < 0.8
    counts_BT[1] = False
    place_BT = torch.arange(tokens).expand(3, -1) + 100
    found = tops(value_BTU.clone(), counts_BT, place_BT, most)
    for piece in range(3):
        own_TU = value_BTU[piece][counts_BT[piece]]
        wanted = own_TU.sort(dim=0, descending=True).values[:most]
        torch.testing.assert_close(found.value_BMU[piece, : len(wanted)], wanted)
        assert bool((found.value_BMU[piece, len(wanted) :] == NOTHING).all())
        if len(own_TU):
            places_T = place_BT[piece][counts_BT[piece]]
            torch.testing.assert_close(found.place_BU[piece], places_T[own_TU.argmax(dim=0)])
