"""Synthetic rows are what they are said to be, and autoencoders are told apart by them."""

from pathlib import Path

import pytest
import torch

from mistudio.artifacts import open_store
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.verify.superposition import (
    ARCHITECTURES,
    EASY,
    HARD,
    SyntheticConfig,
    SyntheticRows,
    measure,
    sae_config,
    superposed,
    train_on,
)

SMALL = SyntheticConfig(features=64, width=32, active=2.0, tokens=60_000, batch_size=256, heldout=4000)


def test_rows_are_the_sums_of_their_features_and_the_same_each_time() -> None:
    stream = SyntheticRows(EASY, seed=3)
    values_TG, rows_TD = stream.heldout()
    assert torch.allclose(rows_TD, values_TG @ stream.directions_GD)
    assert torch.equal(rows_TD, SyntheticRows(EASY, seed=3).heldout()[1])
    assert not torch.equal(rows_TD, SyntheticRows(EASY, seed=4).heldout()[1])
    assert not torch.equal(stream.next_batch(), stream.next_batch())


def test_a_stream_goes_on_where_its_state_was_taken() -> None:
    stream, other = SyntheticRows(SMALL, seed=0), SyntheticRows(SMALL, seed=0)
    stream.next_batch()
    other.load_state_dict(stream.state_dict())
    assert torch.equal(stream.next_batch(), other.next_batch())


def test_easy_rows_have_a_fixed_number_of_features_each_as_frequent() -> None:
    values_TG, _ = SyntheticRows(EASY, seed=0).heldout()
    assert ((values_TG > 0).sum(dim=1) == 4).all()
    share_G = (values_TG > 0).float().mean(dim=0)
    assert share_G.min() > 0.8 * share_G.max() / 1.4


def test_hard_rows_have_rare_features_children_and_groups() -> None:
    stream = SyntheticRows(HARD, seed=0)
    values_TG, _ = stream.heldout()
    fires_TG = values_TG > 0
    is_child_G = stream.parent_G >= 0
    assert int(is_child_G.sum()) == HARD.features // 2
    orphans = fires_TG[:, is_child_G] & ~fires_TG[:, stream.parent_G[is_child_G]]
    assert not orphans.any()
    share_G = fires_TG[:, ~is_child_G].float().mean(dim=0)
    assert share_G[:4].mean() > 3 * share_G[-4:].mean()
    correlation_GG = torch.corrcoef(fires_TG[:, ~is_child_G].float().T)
    same_GG = (stream.group_G[:, None] == stream.group_G)[:64, :64] & ~torch.eye(64, dtype=torch.bool)
    assert correlation_GG[same_GG].mean() > correlation_GG[~same_GG & ~torch.eye(64, dtype=torch.bool)].mean() + 0.03


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gets_as_many_latents_as_there_are_features(architecture: str) -> None:
    config = sae_config(architecture, EASY, 4.0)
    assert (config.architecture, config.width) == (architecture, EASY.features)


def test_the_true_dictionary_is_recovered_and_controls_are_not() -> None:
    config = SyntheticConfig(features=64, width=64, active=2.0, tokens=1000, heldout=2000)
    stream = SyntheticRows(config, seed=0)
    sae = new_autoencoder(TopKConfig(width=64, k=2), 64)
    inverse_DG = torch.linalg.pinv(stream.directions_GD)
    with torch.no_grad():
        sae.W_enc.copy_(inverse_DG.T)
        sae.W_dec.copy_(stream.directions_GD)
    found = measure(sae, config, seed=0)
    assert found.sae.correlation > 0.99
    assert found.sae.f1_any > 0.99
    assert found.sae.cosine == pytest.approx(1.0, abs=1e-4)
    assert found.random.correlation < 0.6
    assert found.shuffled.correlation < 0.1
    assert found.shuffled.cosine < 0.6


def test_training_finds_features_and_a_second_run_finds_the_training(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    found = superposed(store, "batchtopk", SMALL, seed=0)
    assert found.sae.correlation > found.random.correlation + 0.3
    artifact = train_on(store, "batchtopk", SMALL, seed=0)
    created = artifact.manifest.created_at
    assert train_on(store, "batchtopk", SMALL, seed=0).manifest.created_at == created
    assert superposed(store, "batchtopk", SMALL, seed=0) == found


def test_an_untrained_autoencoder_of_the_same_seed_knows_nothing_of_the_directions() -> None:
    stream = SyntheticRows(EASY, seed=0)
    sae = new_autoencoder(TopKConfig(width=EASY.features, k=4), EASY.width)
    sae.for_training().initialise(stream.sample(100), torch.Generator().manual_seed(0))
    assert measure(sae, EASY, seed=0).sae.cosine < 0.5
