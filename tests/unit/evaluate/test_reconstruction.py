"""The streaming figures against the same computed at once, in numpy with float64."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.artifacts import open_store
from mistudio.errors import InputError
from mistudio.evaluate.reconstruction import measure_reconstruction
from mistudio.sae import SparseAutoencoder, StandardConfig, TopKConfig, new_autoencoder
from tests.support.synthetic import HOOK, plant, publish_activations

CPU = torch.device("cpu")
ROWS, WIDTH = 5_000, 12  # more than one batch


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    rows_ND = plant(ROWS, width=WIDTH).acts_ND * 3 + 5
    return ActivationReader(publish_activations(store, rows_ND[:64], rows_ND, shards=2), HOOK, "heldout")


def random_sae(config: TopKConfig | StandardConfig, x_ND: Tensor) -> SparseAutoencoder:
    sae = new_autoencoder(config, WIDTH)
    sae.for_training().initialise(x_ND, torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_enc[:5] = -1e4  # these never fire
    return sae.requires_grad_(requires_grad=False)


@pytest.mark.parametrize("max_tokens", [None, 4096, 700, 10**9])
@pytest.mark.parametrize(
    "config", [TopKConfig(width=64, k=4), StandardConfig(width=64)], ids=lambda config: config.architecture
)
def test_every_figure_equals_the_direct_computation(
    config: TopKConfig | StandardConfig, max_tokens: int | None, reader: ActivationReader
) -> None:
    rows = min(max_tokens or ROWS, ROWS)
    x_ND = reader.acts(0, rows).float()
    sae = random_sae(config, x_ND)
    measured = measure_reconstruction(sae, reader, max_tokens, CPU)

    acts_NF = sae.encode(x_ND).double().numpy()
    x, rebuilt = x_ND.double().numpy(), acts_NF @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    assert measured.tokens == rows
    assert measured.fvu == pytest.approx(((x - rebuilt) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum(), rel=1e-5)
    assert measured.l0 == pytest.approx((acts_NF > 0).sum(axis=1).mean())
    assert measured.l1 == pytest.approx(acts_NF.sum(axis=1).mean(), rel=1e-6)
    error, variance = ((x - rebuilt) ** 2).sum(axis=1), ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    assert measured.explained_variance_by_token == pytest.approx((1 - error / variance).mean(), rel=1e-5)
    assert measured.mse == pytest.approx(((x - rebuilt) ** 2).mean(), rel=1e-5)
    assert measured.l2_ratio == pytest.approx(
        (np.linalg.norm(rebuilt, axis=1) / np.linalg.norm(x, axis=1)).mean(), rel=1e-6
    )
    bias = (rebuilt**2).sum(axis=1).mean() / (x * rebuilt).sum(axis=1).mean()
    assert measured.relative_bias == pytest.approx(bias, rel=1e-6)
    cosine = (x * rebuilt).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(rebuilt, axis=1)
    assert measured.cosine == pytest.approx(cosine.mean(), rel=1e-6)
    np.testing.assert_allclose(measured.density_F.numpy(), (acts_NF > 0).mean(axis=0))
    assert not measured.density_F[:5].any()
    fires_F = (acts_NF > 0).mean(axis=0)
    assert measured.dead_fraction == pytest.approx((fires_F == 0).mean())
    for threshold in (0.02, 0.1, 0.3):
        assert measured.dense_fraction(threshold) == pytest.approx((fires_F > threshold).mean())


def test_a_perfect_autoencoder_leaves_nothing_unexplained(reader: ActivationReader) -> None:
    sae = new_autoencoder(StandardConfig(width=64), WIDTH)
    with torch.no_grad():
        for rows, sign in ((slice(0, WIDTH), 1), (slice(WIDTH, 2 * WIDTH), -1)):
            sae.W_enc[rows] = sae.W_dec[rows] = sign * torch.eye(WIDTH)
    measured = measure_reconstruction(sae, reader, None, CPU)
    assert measured.fvu == pytest.approx(0, abs=1e-12)
    assert measured.cosine == pytest.approx(1)


def test_rebuilding_the_mean_leaves_all_of_the_variance_unexplained(reader: ActivationReader) -> None:
    sae = new_autoencoder(StandardConfig(width=64), WIDTH)
    with torch.no_grad():
        sae.b_dec.copy_(reader.acts(0, ROWS).double().mean(dim=0))
    assert measure_reconstruction(sae, reader, None, CPU).fvu == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("origin", "fvu"), [(2.0, 0.0), (1.0, 1.0)])
def test_rows_without_any_variance_count_as_rebuilt_or_not(origin: float, fvu: float, tmp_path: Path) -> None:
    rows_ND = torch.full((100, WIDTH), 2.0)
    activations = publish_activations(open_store(str(tmp_path)), rows_ND, rows_ND)
    sae = new_autoencoder(StandardConfig(width=64), WIDTH)
    with torch.no_grad():
        sae.b_dec.fill_(origin)
    measured = measure_reconstruction(sae, ActivationReader(activations, HOOK, "heldout"), None, CPU)
    assert measured.fvu == fvu


def axis_sae(scale: float = 1.0, d_out: int | None = None) -> SparseAutoencoder:
    """One latent for each positive half-axis of the first dimensions, decoded ``scale`` times as long."""
    sae = new_autoencoder(StandardConfig(width=64), 2, d_out)
    with torch.no_grad():
        sae.W_enc[:2] = torch.eye(2)
        sae.W_dec[0, 0] = sae.W_dec[1, 1] = scale
        sae.b_enc[2:] = -1
    return sae


def rows_of(rows_ND: Tensor, folder: Path, hook: str = HOOK) -> ActivationReader:
    return ActivationReader(publish_activations(open_store(str(folder)), rows_ND, rows_ND, hook=hook), hook, "heldout")


def test_figures_of_two_tokens_computed_by_hand(tmp_path: Path) -> None:
    # x = (2, 0) and (2, 4), mean (2, 2); the second latent is halved, so x̂ = (2, 0) and (2, 2).
    sae = axis_sae()
    with torch.no_grad():
        sae.W_dec[1, 1] = 0.5
    measured = measure_reconstruction(sae, rows_of(torch.tensor([[2.0, 0.0], [2.0, 4.0]]), tmp_path), None, CPU)
    assert measured.fvu == pytest.approx(4 / 8)
    assert measured.explained_variance_by_token == pytest.approx((1 + (1 - 4 / 4)) / 2)
    assert measured.mse == pytest.approx(4 / 4)
    assert measured.l0 == 1.5
    assert measured.l1 == pytest.approx((2 + 2 + 4) / 2)
    assert measured.cosine == pytest.approx((1 + 12 / (20 * 8) ** 0.5) / 2)
    assert measured.l2_ratio == pytest.approx((1 + (8 / 20) ** 0.5) / 2)
    assert measured.relative_bias == pytest.approx((4 + 8) / (4 + 12))
    assert measured.density_F[:3].tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_relative_bias_is_the_factor_by_which_a_reconstruction_is_too_long(scale: float, tmp_path: Path) -> None:
    reader = rows_of(torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) + 0.5, tmp_path)
    measured = measure_reconstruction(axis_sae(scale), reader, None, CPU)
    assert measured.relative_bias == pytest.approx(scale, rel=1e-5)
    assert measured.l2_ratio == pytest.approx(scale, rel=1e-5)


@pytest.mark.parametrize("size", [1e-4, 1e-6, 1.0])
def test_the_ratio_of_lengths_does_not_depend_on_the_scale(size: float, tmp_path: Path) -> None:
    # Multiples of a power of two, which float16 holds exactly even where it is coarse.
    reader = rows_of(torch.tensor([[1.0, 2.0], [3.0, 1.0]]) * 2.0 ** round(math.log2(size)), tmp_path)
    assert measure_reconstruction(axis_sae(0.5), reader, None, CPU).l2_ratio == pytest.approx(0.5, rel=1e-5)


def test_where_nothing_is_reconstructed_there_is_no_bias(tmp_path: Path) -> None:
    reader = rows_of(torch.full((10, 2), -1.0), tmp_path)
    assert measure_reconstruction(axis_sae(), reader, None, CPU).relative_bias is None


def test_a_transcoder_is_held_against_its_target(tmp_path: Path) -> None:
    x_ND = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) + 0.5
    y_NE = torch.cat([3 * x_ND, torch.ones(300, 1)], dim=1)
    readers = rows_of(x_ND, tmp_path), rows_of(y_NE, tmp_path, hook="mlp_out.1")
    sae = axis_sae(3.0, d_out=3)
    with torch.no_grad():
        sae.b_dec[2] = 1.0
    perfect = measure_reconstruction(sae, readers[0], None, CPU, readers[1])
    assert perfect.fvu == pytest.approx(0, abs=1e-5)
    assert perfect.cosine == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        sae.W_dec.zero_()
        sae.b_dec.copy_(readers[1].acts(0, 300).double().mean(dim=0))
    assert measure_reconstruction(sae, readers[0], None, CPU, readers[1]).fvu == pytest.approx(1, rel=1e-5)


def test_input_and_target_of_different_captures_are_refused(tmp_path: Path) -> None:
    reader, other = rows_of(torch.ones(10, 2), tmp_path), rows_of(torch.ones(12, 2), tmp_path, hook="mlp_out.1")
    with pytest.raises(InputError, match=r"resid_post\.1 has 10 rows and mlp_out\.1 12: capture both in one run"):
        measure_reconstruction(axis_sae(), reader, None, CPU, other)
