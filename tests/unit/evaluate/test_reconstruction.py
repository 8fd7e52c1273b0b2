"""The streaming figures against the same computed at once, in numpy with float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.artifacts import open_store
from mistudio.evaluate.reconstruction import measure_reconstruction
from mistudio.sae import SparseAutoencoder, StandardConfig, TopKConfig, new_autoencoder
from tests.unit.train.synthetic import HOOK, plant, publish_activations

CPU = torch.device("cpu")
ROWS, WIDTH = 5_000, 12  # more than one batch


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ActivationReader:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    rows_ND = plant(ROWS, width=WIDTH).acts_ND * 3 + 5
    return ActivationReader(publish_activations(store, rows_ND[:64], rows_ND, shards=2), HOOK, "heldout")


def random_sae(config: TopKConfig | StandardConfig, x_ND: Tensor) -> SparseAutoencoder:
    sae = new_autoencoder(config, WIDTH)
    sae.initialise(x_ND, torch.Generator().manual_seed(0))
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
    cosine = (x * rebuilt).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(rebuilt, axis=1)
    assert measured.cosine == pytest.approx(cosine.mean(), rel=1e-6)
    np.testing.assert_allclose(measured.density_F.numpy(), (acts_NF > 0).mean(axis=0))
    assert not measured.density_F[:5].any()


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
