"""The train step publishes an autoencoder once, with its history, and reports on the way."""

import json
from pathlib import Path

import pytest
import torch

from mistudio.artifacts import Artifact, Store, open_store
from mistudio.errors import InputError
from mistudio.sae import StandardConfig, TopKConfig, activation_std_of, hook_of, load_autoencoder
from mistudio.train import TRAINING_NAME, Metrics, TrainConfig, train, training
from tests.support.synthetic import HOOK, plant, publish_activations

CONFIG = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=6_000, batch_size=128, dead_after_tokens=1_000)


@pytest.fixture
def activations(store: Store) -> Artifact:
    return publish_activations(store, plant(1_500, width=12).acts_ND)


def test_what_is_published_is_found_again_and_nothing_is_computed(store: Store, activations: Artifact) -> None:
    first = train(store, activations, CONFIG)
    calls: list[int] = []
    again = train(store, activations, CONFIG, on_metrics=lambda _metrics, step: calls.append(step))
    assert (first.found, again.found, calls) == (False, True, [])
    assert again.artifact.digest == first.artifact.digest


def test_the_same_seed_gives_the_same_digest_and_another_seed_another(tmp_path: Path) -> None:
    digests = []
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        store = open_store(str(tmp_path / folder))
        artifact = train(store, publish_activations(store, plant(1_500, width=12).acts_ND), CONFIG, seed).artifact
        digests.append((artifact.digest, artifact.file("sae.safetensors").read_bytes()))
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][1] != digests[2][1]


@pytest.mark.parametrize("sae", [CONFIG.sae, StandardConfig(width=64)], ids=lambda sae: sae.architecture)
def test_metrics_arrive_with_their_steps_and_the_loss_falls(
    sae: TopKConfig | StandardConfig, store: Store, activations: Artifact
) -> None:
    seen: list[tuple[int, Metrics]] = []
    config = CONFIG.model_copy(update={"sae": sae})
    artifact = train(store, activations, config, on_metrics=lambda metrics, step: seen.append((step, metrics))).artifact
    assert [step for step, _ in seen] == list(range(1, 49))
    names = {"loss", "fvu", "l0", "tokens", "dead_fraction", "learning_rate"}
    assert all(names <= metrics.keys() and "step" not in metrics for _, metrics in seen)
    fvu = [metrics["fvu"] for _, metrics in seen]
    assert sum(fvu[-5:]) < 0.5 * sum(fvu[:5])
    history = json.loads(artifact.file(TRAINING_NAME).read_bytes())
    assert [(int(point.pop("step")), point) for point in history] == seen


def test_the_summary_and_files_say_what_was_trained(store: Store, activations: Artifact) -> None:
    artifact = train(store, activations, CONFIG).artifact
    summary = artifact.manifest.summary
    expected = {"architecture": "topk", "hook": HOOK, "d_in": 12, "width": 64, "tokens": 6_000, "steps": 48}
    assert {name: summary[name] for name in expected} == expected
    assert summary["epochs"] == 4.0
    assert summary["train_l0"] == 4.0
    assert hook_of(artifact) == HOOK
    assert artifact.manifest.inputs == {"activations": activations.ref}
    assert load_autoencoder(artifact).W_dec.norm(dim=1).tolist() == pytest.approx([1.0] * 64)
    variance = plant(1_500, width=12).acts_ND.half().float().var(dim=0, correction=0).mean()
    assert activation_std_of(artifact) == pytest.approx(float(variance.sqrt()), rel=1e-3)


def test_a_hook_point_that_was_not_captured_is_refused_with_those_that_were(
    store: Store, activations: Artifact
) -> None:
    with pytest.raises(InputError, match=r"no activations of resid_post\.2 \(train\); it has resid_post\.1"):
        train(store, activations, CONFIG.model_copy(update={"hook": "resid_post.2"}))
    assert not list(store.list("sae"))


@pytest.mark.parametrize(("small", "threads"), [(1 << 28, 1), (0, 2)])
def test_small_steps_keep_to_one_thread(
    store: Store, activations: Artifact, monkeypatch: pytest.MonkeyPatch, small: int, threads: int
) -> None:
    monkeypatch.setattr(training, "_SMALL", small)
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        train(store, activations, CONFIG, on_metrics=lambda _metrics, _step: seen.add(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert seen == {threads}
