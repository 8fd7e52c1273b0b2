"""Autoencoders go to files and come back; what is not one is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mistudio.artifacts import Artifact, Draft, Recipe, Summary, open_store, produce
from mistudio.errors import DamagedArtifact
from mistudio.sae import (
    ArchitectureConfig,
    NormLimit,
    SparseAutoencoder,
    TopKConfig,
    activation_std_of,
    architectures,
    config_json,
    hook_of,
    load_autoencoder,
    new_autoencoder,
    save_weights,
)
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME
from tests.support.naive_sae import small_config

ARCHITECTURES = [TopKConfig(width=64, k=6, aux_k=3), *(small_config(name, 96) for name in architectures())]
D_IN = 12


def make(config: ArchitectureConfig) -> SparseAutoencoder:
    sae = new_autoencoder(config, D_IN)
    with torch.no_grad():
        for name in sae.weight_names():
            weight = getattr(sae, name)
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return sae


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Artifact]:
    """Publish an autoencoder, with its files changed by ``damage`` before they are hashed."""

    def publish(sae: SparseAutoencoder, damage: Callable[[Draft], None] | None = None) -> Artifact:
        def build(draft: Draft) -> Summary:
            with draft.stage(WEIGHTS_NAME) as path:
                save_weights(sae, path)
            draft.write(CONFIG_NAME, config_json(sae, "resid_post.1", 2.5))
            if damage:
                damage(draft)
            return {}

        recipe = Recipe(kind="sae", config=sae.config.model_dump(mode="json"))
        return produce(open_store(str(tmp_path / "store")), recipe, "train", build).artifact

    return publish


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.architecture)
def test_what_was_saved_is_loaded(config: ArchitectureConfig, publish: Callable[..., Artifact]) -> None:
    sae = make(config)
    artifact = publish(sae)
    loaded = load_autoencoder(artifact)
    assert type(loaded) is type(sae)
    assert loaded.config == config
    assert loaded.d_in == D_IN
    for name in sae.weight_names():
        assert torch.equal(getattr(loaded, name), getattr(sae, name)), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert hook_of(artifact) == "resid_post.1"
    assert activation_std_of(artifact) == 2.5


def test_weights_are_saved_in_float32_whatever_they_were(publish: Callable[..., Artifact]) -> None:
    sae = make(ARCHITECTURES[0]).double()
    assert load_autoencoder(publish(sae)).W_enc.dtype == torch.float32


def test_a_norm_limit_is_kept_to_the_bit_and_leaves_no_key_where_there_is_none(
    publish: Callable[..., Artifact],
) -> None:
    sae = make(ARCHITECTURES[0])
    assert b"norm_limit" not in config_json(sae, "resid_post.1", 2.5)
    centre_D = torch.randn(D_IN, generator=torch.Generator().manual_seed(0)) / 3
    sae.norm_limit = NormLimit(centre_D, 10 / 3)
    loaded = load_autoencoder(publish(sae))
    assert loaded.norm_limit is not None
    assert torch.equal(loaded.norm_limit.centre_D, centre_D)
    assert loaded.norm_limit.distance == 10 / 3


def without(content: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: without(content, "sae"),
        lambda content: without(content, "d_in"),
        lambda content: {**content, "d_in": "wide"},
        lambda content: {**content, "sae": {**content["sae"], "k": 0}},
        lambda content: {**content, "sae": {**content["sae"], "architecture": "vae"}},
        lambda content: {**content, "activation_std": 0.0},
        lambda content: {**content, "norm_limit": {"centre": [0.0] * (D_IN - 1), "distance": 1.0}},
        lambda content: {**content, "norm_limit": {"centre": [0.0] * D_IN, "distance": -1.0}},
        lambda content: {**content, "norm_limit": {"centre": ["NaN", *[0.0] * (D_IN - 1)], "distance": 1.0}},
        lambda content: {**content, "norm_limit": {"centre": [0.0] * D_IN, "distance": 1e999}},
        lambda content: {**content, "norm_limit": 3.0},
        lambda content: [content],
    ],
)
def test_a_config_that_is_none_is_refused_by_name(
    change: Callable[[dict[str, object]], object], publish: Callable[..., Artifact]
) -> None:
    def damage(draft: Draft) -> None:
        content = json.loads(draft.file(CONFIG_NAME).read_bytes())
        draft.write(CONFIG_NAME, json.dumps(change(content)).encode())

    artifact = publish(make(ARCHITECTURES[0]), damage)
    for read in (load_autoencoder, hook_of, activation_std_of):
        with pytest.raises(DamagedArtifact, match=r"sae/\w+/config\.json is not the configuration of an autoencoder"):
            read(artifact)


def test_a_config_that_is_no_json_is_refused(publish: Callable[..., Artifact]) -> None:
    artifact = publish(make(ARCHITECTURES[0]), lambda draft: draft.write(CONFIG_NAME, b"{not json"))
    with pytest.raises(DamagedArtifact, match=r"config\.json"):
        load_autoencoder(artifact)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: {name: value for name, value in weights.items() if name != "W_dec"}, r"holds W_enc.*instead"),
        (lambda weights: {**weights, "W_dec": weights["W_dec"][:-1].clone()}, r"W_dec \[63, 12\].*W_dec \[64, 12\]"),
        (lambda weights: {**weights, "extra": torch.ones(3)}, r"extra \[3\]"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    reason: str,
    publish: Callable[..., Artifact],
) -> None:
    sae = make(ARCHITECTURES[0])
    weights = {name: value.detach().clone() for name, value in sae.named_parameters()}

    def damage(draft: Draft) -> None:
        with draft.stage(WEIGHTS_NAME) as path:
            save_file(change(weights), path)

    with pytest.raises(DamagedArtifact, match=reason):
        load_autoencoder(publish(sae, damage))


def test_weights_that_are_no_safetensors_file_are_refused(publish: Callable[..., Artifact]) -> None:
    artifact = publish(make(ARCHITECTURES[0]), lambda draft: draft.write(WEIGHTS_NAME, b"PK\x03\x04 not weights"))
    with pytest.raises(DamagedArtifact, match=r"sae\.safetensors is not a safetensors file"):
        load_autoencoder(artifact)


def test_a_file_changed_after_publication_is_refused(publish: Callable[..., Artifact]) -> None:
    artifact = publish(make(ARCHITECTURES[0]))
    path = artifact.file(WEIGHTS_NAME)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtifact, match=r"sae\.safetensors"):
        load_autoencoder(artifact)
