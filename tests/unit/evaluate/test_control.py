"""The random autoencoder: as sparse as the trained one, as good as random directions can be, and no better."""

import pytest
import torch
from torch import Tensor

from mistudio.evaluate.control import random_autoencoder, random_latents, sample_rows
from mistudio.sae import (
    ArchitectureConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    SparseAutoencoder,
    StandardConfig,
    TopKConfig,
    new_autoencoder,
)
from tests.support.synthetic import plant

WIDTH = 24
CONFIGS = [
    TopKConfig(width=128, k=6),
    BatchTopKConfig(width=128, k=6),
    MatryoshkaConfig(width=128, k=6),
    StandardConfig(width=128),
    GatedConfig(width=128),
    JumpReLUConfig(width=128),
    TopKConfig(width=128, k=6, skip="scale"),
]


@pytest.fixture(scope="module")
def sample_ND() -> Tensor:
    return plant(1024, width=WIDTH).acts_ND * 4


def planted_sae(config: ArchitectureConfig) -> SparseAutoencoder:
    """An autoencoder with the planted directions among its latents, each a few of which fire on a token."""
    planted = plant(2000, width=WIDTH)
    sae = new_autoencoder(config, WIDTH)
    sae.for_training().initialise(planted.acts_ND, torch.Generator().manual_seed(3))
    with torch.no_grad():
        sae.W_enc[:32] = sae.W_dec[:32] = planted.directions_PD
        sae.W_enc[32:] = 0
        sae.b_enc.copy_(-(sae.W_enc @ planted.acts_ND.mean(dim=0)) * 4 - 2)
        sae.b_dec.copy_(planted.acts_ND.mean(dim=0) * 4)
    return sae


def mean_l0(sae: SparseAutoencoder, x_ND: Tensor) -> float:
    return len(sae.encode_active(x_ND).value_A) / len(x_ND)


def squared_error(sae: SparseAutoencoder, x_ND: Tensor) -> float:
    return float((sae.reconstruct(x_ND) - x_ND).double().square().sum())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.architecture}-{config.skip}")
def test_it_is_as_sparse_as_the_trained_one_on_tokens_it_was_not_fitted_to(
    config: ArchitectureConfig, sample_ND: Tensor
) -> None:
    sae = planted_sae(config)
    control = random_autoencoder(sae, sample_ND, seed=0)
    other_ND = plant(2000, width=WIDTH, seed=1).acts_ND * 4
    assert mean_l0(sae, other_ND) > 1
    assert mean_l0(control, other_ND) == pytest.approx(mean_l0(sae, other_ND), rel=0.1)
    assert not control.W_dec.requires_grad


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.architecture}-{config.skip}")
def test_no_other_length_of_its_decoder_would_fit_the_sample_better(
    config: ArchitectureConfig, sample_ND: Tensor
) -> None:
    control = random_autoencoder(planted_sae(config), sample_ND, seed=0)
    error = squared_error(control, sample_ND)
    for factor in (0.9, 1.1 / 0.9):
        control.W_dec.mul_(factor)
        assert squared_error(control, sample_ND) > error
    # The mean alone, without any latent, would do worse too.
    assert error < float((sample_ND - sample_ND.mean(dim=0)).double().square().sum())


def test_its_directions_are_random_and_depend_on_the_seed_alone(sample_ND: Tensor) -> None:
    sae = planted_sae(CONFIGS[0])
    first, again, other = (random_autoencoder(sae, sample_ND, seed).W_dec for seed in (0, 0, 1))
    assert torch.equal(first, again)
    unit, other_unit = (torch.nn.functional.normalize(rows, dim=1) for rows in (first, other))
    assert (unit * other_unit).sum(dim=1).abs().mean() < 0.3
    assert (unit @ unit.T).mean() < 0.1


def test_it_does_not_start_where_an_autoencoder_of_the_same_seed_started(sample_ND: Tensor) -> None:
    untrained = new_autoencoder(CONFIGS[0], WIDTH)
    untrained.for_training().initialise(sample_ND, torch.Generator().manual_seed(0))
    control = random_autoencoder(untrained, sample_ND, seed=0)
    assert torch.cosine_similarity(untrained.W_dec, control.W_dec, dim=1).abs().mean() < 0.3


def test_where_nothing_ever_fires_the_control_fires_on_nothing(sample_ND: Tensor) -> None:
    silent = new_autoencoder(StandardConfig(width=64), WIDTH)
    assert mean_l0(random_autoencoder(silent, sample_ND, 0), sample_ND) < 0.01


def test_a_transcoders_control_is_fitted_to_the_target(sample_ND: Tensor) -> None:
    target_NE = torch.cat([2 * sample_ND, torch.full((len(sample_ND), 1), 7.0)], dim=1)
    sae = new_autoencoder(TopKConfig(width=128, k=6), WIDTH, WIDTH + 1)
    sae.for_training().initialise(sample_ND, torch.Generator().manual_seed(0))
    control = random_autoencoder(sae, sample_ND, 0, target_NE)
    rebuilt_NE = control.reconstruct(sample_ND)
    assert rebuilt_NE.shape == target_NE.shape
    variance = (target_NE - target_NE.mean(dim=0)).square().sum()
    assert (rebuilt_NE - target_NE).square().sum() <= variance * 1.001


@pytest.mark.parametrize("config", CONFIGS[:-1], ids=lambda config: config.architecture)
def test_for_latents_alone_no_target_is_needed_whatever_its_width(
    config: ArchitectureConfig, sample_ND: Tensor
) -> None:
    sae = new_autoencoder(config.model_copy(update={"skip": "linear"}), WIDTH, WIDTH + 1)
    sae.for_training().initialise(sample_ND, torch.Generator().manual_seed(0))
    control = random_latents(sae, sample_ND, 0)
    assert (control.d_in, control.d_out) == (WIDTH, WIDTH + 1)
    assert mean_l0(control, sample_ND) == pytest.approx(mean_l0(sae, sample_ND), rel=0.02)
    assert torch.cosine_similarity(control.W_enc, sae.W_enc, dim=1).abs().mean() < 0.3


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.architecture}-{config.skip}")
def test_its_latents_are_those_of_the_whole_control(config: ArchitectureConfig, sample_ND: Tensor) -> None:
    sae = planted_sae(config)
    whole, latents = random_autoencoder(sae, sample_ND, 3), random_latents(sae, sample_ND, 3)
    assert mean_l0(whole, sample_ND) > 0
    torch.testing.assert_close(latents.encode(sample_ND), whole.encode(sample_ND), rtol=0, atol=0)


class Rows:
    """The part of a reader that is used, over numbered rows."""

    def __init__(self, count: int) -> None:
        self.rows = torch.arange(count).float()[:, None]

    def __len__(self) -> int:
        return len(self.rows)

    def acts(self, start: int, stop: int) -> Tensor:
        return self.rows[start:stop]


@pytest.mark.parametrize(("count", "sampled"), [(10, 10), (1024, 1024), (1025, 1024), (100_000, 1024)])
def test_a_sample_reaches_from_the_first_row_to_the_last(count: int, sampled: int) -> None:
    sample = sample_rows(Rows(count))
    assert len(sample) == sampled
    assert sample.min() == 0
    assert sample.max() == count - 1
