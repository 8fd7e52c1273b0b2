"""Training finds sparse features that were planted, and explains far more than what knows nothing of them."""

import pytest
import torch
from torch import Tensor

from mistudio.artifacts import Store
from mistudio.sae import SparseAutoencoder, StandardConfig, TopKConfig, load_autoencoder, new_autoencoder
from mistudio.train import TrainConfig, train
from tests.support.synthetic import HOOK, plant, publish_activations

ACTIVE = 3
TOPK = TopKConfig(width=64, k=ACTIVE)
STANDARD = StandardConfig(width=64, l1_coefficient=0.02)


def fvu_of(sae: SparseAutoencoder, x_TD: Tensor) -> float:
    return float((x_TD - sae.reconstruct(x_TD)).square().sum() / (x_TD - x_TD.mean(dim=0)).square().sum())


def fvu_of_components(x_TD: Tensor, num_components: int) -> float:
    """What the best plane through the mean leaves unexplained."""
    variance_D = torch.linalg.svdvals(x_TD - x_TD.mean(dim=0)).square()
    return float(variance_D[num_components:].sum() / variance_D.sum())


@pytest.mark.parametrize("config", [TOPK, STANDARD], ids=lambda config: config.architecture)
def test_planted_features_are_found(config: TopKConfig | StandardConfig, store: Store) -> None:
    planted = plant(20_000, active=ACTIVE)
    activations = publish_activations(store, planted.acts_ND)
    settings = TrainConfig(hook=HOOK, sae=config, tokens=200_000, batch_size=256, dead_after_tokens=20_000)
    artifact = train(store, activations, settings).artifact
    sae = load_autoencoder(artifact)
    heldout_ND = plant(4_000, active=ACTIVE, seed=1).acts_ND

    fvu = fvu_of(sae, heldout_ND)
    random_sae = new_autoencoder(config, heldout_ND.shape[1])
    random_sae.for_training().initialise(heldout_ND, torch.Generator().manual_seed(0))
    assert fvu < 0.06
    assert fvu < 0.1 * fvu_of(random_sae, heldout_ND)
    assert fvu < 0.1 * fvu_of_components(heldout_ND, ACTIVE)

    directions_FD = torch.nn.functional.normalize(sae.W_dec, dim=1)
    found_P = (planted.directions_PD @ directions_FD.T).amax(dim=1)
    random_P = (planted.directions_PD @ torch.nn.functional.normalize(random_sae.W_dec.detach(), dim=1).T).amax(dim=1)
    assert float(found_P.mean()) > 0.97
    assert float(found_P.min()) > 0.9
    assert float(random_P.mean()) < 0.7
    # The loss that training reports is the fraction of variance unexplained, in any units of the activations.
    assert artifact.manifest.summary["train_fvu"] == pytest.approx(fvu, rel=0.5)


def test_the_units_of_the_activations_do_not_matter(store: Store) -> None:
    planted = plant(4_000, active=ACTIVE)
    settings = TrainConfig(hook=HOOK, sae=TOPK, tokens=40_000, batch_size=256, dead_after_tokens=5_000)
    small, large = (train(store, publish_activations(store, planted.acts_ND * scale), settings) for scale in (1, 1024))
    one, other = load_autoencoder(small.artifact), load_autoencoder(large.artifact)
    torch.testing.assert_close(one.W_dec, other.W_dec, rtol=0.02, atol=0.01)
    torch.testing.assert_close(one.b_dec * 1024, other.b_dec, rtol=0.02, atol=10.0)


def test_a_dictionary_of_the_right_sparsity_beats_a_sparser_one(store: Store) -> None:
    activations = publish_activations(store, plant(6_000, active=ACTIVE).acts_ND)
    fvu = {}
    for k in (1, ACTIVE):
        settings = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=k), tokens=60_000, batch_size=256)
        fvu[k] = fvu_of(load_autoencoder(train(store, activations, settings).artifact), plant(2_000, seed=1).acts_ND)
    assert fvu[ACTIVE] < 0.5 * fvu[1]
