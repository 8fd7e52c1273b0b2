"""A run that is cut short and run again ends with the bytes of a run that was not."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.artifacts import Artifact, Store, open_store
from mistudio.sae import StandardConfig, TopKConfig
from mistudio.train import Metrics, TrainConfig, Trainer, TrainRuntime, train
from mistudio.train.config import TRAINING_NAME
from tests.support.naive_sae import small_config
from tests.support.synthetic import HOOK, plant, publish_activations

ROWS, BATCH, STEPS = 700, 128, 22  # six steps an epoch, the last of them smaller
ARCHITECTURES = {
    "topk": TopKConfig(width=64, k=4),
    "standard": StandardConfig(width=64, l1_coefficient=0.1, encoder_bias=-1.0),
    "batchtopk": small_config("batchtopk"),
    "matryoshka": small_config("matryoshka"),
    "gated": small_config("gated", target_l0=4),
    "jumprelu": small_config("jumprelu", target_l0=4),
}


class Cut(Exception):
    """Stands for anything that ends a run."""


def settings(architecture: str) -> TrainConfig:
    """A run in which latents die, are revived or get the auxiliary loss, and the buffer holds part of the rows."""
    return TrainConfig(
        hook=HOOK,
        sae=ARCHITECTURES[architecture],
        tokens=ROWS * 3 + BATCH * 4,
        batch_size=BATCH,
        buffer_rows=300,
        dead_after_tokens=300,
        check_every_steps=5,
        learning_rate=0.02,
        decoder_rate_ratio=1.0,
    )


@pytest.fixture(scope="module")
def rows_ND() -> Tensor:
    return plant(ROWS, width=12).acts_ND


@pytest.fixture
def runs(tmp_path: Path, rows_ND: Tensor) -> Callable[..., Artifact]:
    """Train in a store of its own, from scratch or going on, and cut the run after a step."""

    def run(
        architecture: str,
        store: str = "store",
        cut_at: int | None = None,
        every: int = 4,
        steps: list[int] | None = None,
        device: str = "cpu",
        **changes: object,
    ) -> Artifact:
        opened = open_store(str(tmp_path / store))

        def on_metrics(_metrics: Metrics, step: int) -> None:
            if steps is not None:
                steps.append(step)
            if step == cut_at:
                raise Cut

        config = settings(architecture).model_copy(update=changes)
        runtime = TrainRuntime(device=device, checkpoint_every_steps=every)
        return train(opened, publish_activations(opened, rows_ND), config, 3, runtime, on_metrics).artifact

    return run


def work_names(store: Store) -> list[str]:
    return [name.rpartition("/")[2] for name in store.list() if "/work/" in name]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_cut_at_any_moment_ends_with_the_same_digest(
    architecture: str, runs: Callable[..., Artifact], tmp_path: Path
) -> None:
    whole = runs(architecture)
    assert whole.manifest.summary["steps"] == STEPS
    history = json.loads(whole.file(TRAINING_NAME).read_bytes())
    if architecture in ("topk", "standard"):  # latents die in them, get the auxiliary loss, start anew
        assert sum(point["dead_fraction"] > 0 for point in history) > 1
        assert any("auxiliary" in point for point in history) == (architecture == "topk")
        cuts = (1, 3, 4, 5, 6, 7, 8, 10, 12, 13, 18, 19, 21, 22)
    else:
        cuts = (1, 6, 11, 22)
    for cut_at in cuts:
        name = f"cut-{cut_at}"
        with pytest.raises(Cut):
            runs(architecture, name, cut_at)
        assert bool(work_names(open_store(str(tmp_path / name)))) == (cut_at > 4)
        assert runs(architecture, name).digest == whole.digest, cut_at


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_cut_again_and_again_ends_with_the_same_digest(architecture: str, runs: Callable[..., Artifact]) -> None:
    whole = runs(architecture)
    for cut_at in (2, 6, 9, 16, 21):
        with pytest.raises(Cut):
            runs(architecture, "cut", cut_at, every=1)
    assert runs(architecture, "cut", every=3).digest == whole.digest


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_on_a_gpu_is_the_same_each_time_and_goes_on_where_it_was_cut(
    architecture: str, runs: Callable[..., Artifact]
) -> None:
    whole = runs(architecture, "whole", device="cuda")
    assert runs(architecture, "again", device="cuda").digest == whole.digest
    with pytest.raises(Cut):
        runs(architecture, "cut", 10, device="cuda")
    assert runs(architecture, "cut", device="cuda").digest == whole.digest


@pytest.mark.parametrize(
    ("reason", "changes"),
    [("min_loss", {"min_loss": 1e9}), ("patience", {"patience": 1, "learning_rate": 1e-9, "dead_after_tokens": 10**6})],
)
def test_a_run_that_stops_early_ends_with_the_same_digest_wherever_it_was_cut(
    reason: str, changes: dict[str, float], runs: Callable[..., Artifact]
) -> None:
    early = {"warmup_fraction": 0.0, "decay_fraction": 0.2, **changes}
    whole = runs("topk", **early)
    assert whole.manifest.summary["stopped_because"] == reason
    assert whole.manifest.summary["steps"] == {"min_loss": 5, "patience": 15}[reason] + 4
    for cut_at in (4, 6, 9, 11, 14, 18):
        if cut_at < whole.manifest.summary["steps"]:
            with pytest.raises(Cut):
                runs("topk", f"cut-{cut_at}", cut_at, every=2, **early)
            assert runs("topk", f"cut-{cut_at}", **early).digest == whole.digest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_state_is_the_whole_state(architecture: str, rows_ND: Tensor, tmp_path: Path) -> None:
    activations = publish_activations(open_store(str(tmp_path / "store")), rows_ND)
    # So long that reports and checks span several steps, and the state is taken in their middle.
    config = settings(architecture).model_copy(update={"tokens": 100 * ROWS, "max_epochs": 100})
    reader = ActivationReader(activations, HOOK, "train")
    whole, resumed = (Trainer([config], reader, seed, torch.device("cpu")) for seed in (3, 4))
    assert whole.learners[0].report_every == 3
    for _ in range(17):
        whole.train_step()
    tensors, text = whole.state_dict(0)
    resumed.load_state_dicts([(load(save(tensors)), text)])
    for _ in range(30):
        assert whole.train_step() == resumed.train_step()
    (one, one_text), (other, other_text) = whole.state_dict(0), resumed.state_dict(0)
    assert one_text == other_text
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_going_on_starts_after_the_last_checkpoint(runs: Callable[..., Artifact]) -> None:
    steps: list[int] = []
    with pytest.raises(Cut):
        runs("topk", cut_at=14, steps=steps)
    runs("topk", steps=steps)
    assert steps == [*range(1, 15), *range(13, STEPS + 1)]


def test_the_last_two_checkpoints_are_kept_and_no_working_file_is_published(
    runs: Callable[..., Artifact], tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(Cut):
        runs("topk", cut_at=18)
    assert work_names(store) == ["checkpoint-000000012.safetensors", "checkpoint-000000016.safetensors"]
    artifact = runs("topk")
    assert not work_names(store)
    names = [name.removeprefix(f"{artifact.uri}/") for name in store.list(artifact.uri)]
    assert names == ["config.json", "manifest.json", "sae.safetensors", TRAINING_NAME]


def test_a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(
    runs: Callable[..., Artifact], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = runs("standard")
    with pytest.raises(Cut):
        runs("standard", "cut", 18)
    (last,) = (tmp_path / "cut").rglob("checkpoint-000000016.safetensors")
    last.write_bytes(last.read_bytes()[:-100])
    assert runs("standard", "cut").digest == whole.digest
    assert re.search(r"checkpoint-000000016\.safetensors cannot be read", caplog.text)


def test_where_no_checkpoint_can_be_read_training_starts_anew(runs: Callable[..., Artifact], tmp_path: Path) -> None:
    whole = runs("topk")
    with pytest.raises(Cut):
        runs("topk", "cut", 18)
    for path in (tmp_path / "cut").rglob("checkpoint-*"):
        path.write_bytes(b"")
    assert runs("topk", "cut").digest == whole.digest


def test_how_often_checkpoints_are_written_does_not_matter(runs: Callable[..., Artifact]) -> None:
    assert runs("topk", "often", every=1).digest == runs("topk", "never", every=10_000).digest
