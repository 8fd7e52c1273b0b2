"""Settings of a training that are given as plain values and as JSON."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mistudio import steps
from mistudio.artifacts import Artifact, Store, open_store
from mistudio.cli import app
from mistudio.errors import ConfigError, InputError
from mistudio.sae import Losses, Stage
from mistudio.sae.topk import TopKTraining
from mistudio.steps.given import check
from mistudio.steps.training import TRAIN
from tests.support.synthetic import plant, publish_activations
from tests.support.tiny import tiny_corpus, tiny_llama


def refusal(**given: object) -> str:
    with pytest.raises(ConfigError) as raised:
        check(TRAIN, given)
    return str(raised.value)


def test_settings_go_to_the_training_and_to_the_architecture() -> None:
    config = check(TRAIN, {"train_settings": '{"ema_decay": 0.9, "aux_k": 4, "skip": "scale"}'}).config
    assert (config.ema_decay, config.sae.aux_k, config.sae.skip) == (0.9, 4, "scale")
    by_path = check(TRAIN, {"train_settings": {"sae": {"aux_k": 4}, "ema_decay": 0.9}}).config
    assert (by_path.ema_decay, by_path.sae.aux_k) == (0.9, 4)
    assert check(TRAIN, {"sae.aux_k": 4}).config.sae.aux_k == 4


def test_settings_as_json_win_over_those_by_name() -> None:
    given = {"tokens": 1000, "k": 8, "train_settings": '{"tokens": 2000, "sae.k": 9}'}
    config = check(TRAIN, given).config
    assert (config.tokens, config.sae.k) == (2000, 9)


@pytest.mark.parametrize("settings", ['{"k": 9}', '{"sae.k": 9}', '{"sae": {"k": 9, "architecture": "batchtopk"}}'])
def test_settings_as_json_win_in_all_spellings(settings: str) -> None:
    config = check(TRAIN, {"architecture": "batchtopk", "k": 8, "train_settings": settings}).config
    assert (config.sae.architecture, config.sae.k) == ("batchtopk", 9)


def test_a_setting_twice_in_one_object_is_refused() -> None:
    assert "k is given twice, as 7 and as 8" in refusal(train_settings={"sae.k": 7, "sae": {"k": 8}})


@pytest.mark.parametrize("setting", ["k=16", "sae.k=16", "architecture=batchtopk", "skip=scale"])
def test_every_setting_that_is_listed_can_be_set(setting: str, tmp_path: Path) -> None:
    made = ["--activations", "activations/0123456789abcdef", "--store", str(tmp_path)]
    done = CliRunner().invoke(app, ["train", *made, "--set", setting])
    assert "activations/0123456789abcdef is not an artifact" in str(done.exception)


@pytest.mark.parametrize(
    ("architecture", "settings", "message"),
    [
        ("topk", '{"tanh_scale": 2}', "topk has no tanh_scale (given: 2): leave it out. It has k."),
        ("topk", '{"bogus": 1}', "train_settings names 'bogus', which is no setting; there are adam_beta2,"),
        ("topk", "ema_decay=0.9", "train_settings is not JSON: 'ema_decay=0.9'"),
        ("topk", "[1]", "is not a JSON object"),
        ("topk", '{"ema_decay": 2}', "ema_decay: input should be less than 1, not 2"),
        ("jumprelu", '{"penalty": "l2"}', "penalty: input should be 'l0' or 'tanh', not 'l2'"),
        ("topk", '{"skip": "linear"}', "skip linear would let an autoencoder copy its input"),
        ("other", "", "architecture 'other' is unknown: use one of"),
        ("other", '{"aux_k": 4}', "architecture 'other' is unknown: use one of"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_runs(architecture: str, settings: str, message: str) -> None:
    assert message in refusal(architecture=architecture, width=1024, train_settings=settings)


@pytest.mark.parametrize(
    ("architecture", "sparsity", "message"),
    [
        ("topk", {"target_l0": 12.0}, "topk has no target_l0 (given: 12): leave it out. It has k."),
        ("topk", {"l1_coefficient": 7.0}, "topk has no l1_coefficient"),
        ("topk", {"l1_coefficient": 0.02}, "topk has no l1_coefficient (given: 0.02)"),  # the default of others
        ("standard", {"k": 8}, "standard has no k (given: 8): leave it out. It has target_l0, l1_coefficient."),
    ],
)
def test_what_an_architecture_does_not_have_is_not_dropped(
    architecture: str, sparsity: dict[str, float], message: str
) -> None:
    assert message in refusal(architecture=architecture, **sparsity)


def test_what_is_not_given_is_the_default_of_the_architecture() -> None:
    for given in ({}, {"k": None, "target_l0": None, "l1_coefficient": None}):
        config = check(TRAIN, {"architecture": "standard", **given}).config.sae
        assert (config.target_l0, config.l1_coefficient) == (None, 0.02)


def test_a_name_that_the_step_does_not_have_is_refused() -> None:
    assert "mistudio train names 'revisions', which is no setting" in refusal(revisions="main")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def activations_of(store: Store) -> Artifact:
    return publish_activations(store, plant(1_500, width=12).acts_ND)


POINTS = {"architectures": "topk,standard", "widths": "64", "sparsities": "4", "tokens": 2048, "seed": 3}


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_several_over_one_stream_are_what_each_is_alone_with_runs_of_their_own(store: Store) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    given = {"activations": activations_of(store).uri, "train_settings": '{"batch_size": 64, "ema_decay": 0.9}'}
    together = steps.run_all("train_together", **given, **POINTS, store=store.url)
    assert [output.found for output in together] == [False, False]
    assert together[0].artifact.manifest.config["ema_decay"] == 0.9
    other = open_store(f"{store.url}-other")
    again = {**given, "activations": activations_of(other).uri}
    alone = [
        steps.run_step("train", **again, architecture=name, width=64, tokens=2048, seed=3, store=other.url, **sparsity)
        for name, sparsity in (("topk", {"k": 4}), ("standard", {"target_l0": 4.0}))
    ]
    assert [each.artifact.digest for each in together] == [each.artifact.digest for each in alone]
    client = tracking.MlflowClient(f"sqlite:///{store.url}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    names = {run.info.run_name: run for run in runs}
    assert set(names) == {
        "train-together",
        "train topk width 64 k4 seed 3",
        "train standard width 64 target L0 4 seed 3",
    }
    parent = names.pop("train-together").info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in names.values()} == {parent}
    assert all(len(client.get_metric_history(run.info.run_id, "fvu")) > 1 for run in names.values())
    assert names["train topk width 64 k4 seed 3"].data.params["ema_decay"] == "0.9"
    found = steps.run_all("train_together", **given, **POINTS, store=store.url)
    assert [output.found for output in found] == [True, True]
    assert len(client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])) == 3


def test_several_transcoders_with_a_linear_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    store = open_store(str(tmp_path / "store"))
    corpus = tiny_corpus(store, tiny_llama(tmp_path / "model"), tmp_path / "text")
    where = {"store": store.url, "device": "cpu"}
    captured = steps.run_step(
        "capture", corpus=corpus.uri, model=str(tmp_path / "model"), hook="mlp_in.1,mlp_out.1", **where
    ).artifact
    asked = {"hook": "mlp_in.1", "target_hook": "mlp_out.1", "train_settings": '{"skip": "linear"}'}
    (made,) = steps.run_all(
        "train_together",
        activations=captured.uri,
        **asked,
        architectures="topk",
        widths="64",
        sparsities="4",
        tokens=2000,
        **where,
    )
    config = made.artifact.manifest.config
    assert (config["hook"], config["target_hook"], config["sae"]["skip"]) == ("mlp_in.1", "mlp_out.1", "linear")
    with pytest.raises(InputError, match=r"has no activations of mlp_out\.0"):
        steps.run_all(
            "train_together",
            activations=captured.uri,
            hook="mlp_in.1",
            target_hook="mlp_out.0",
            architectures="topk",
            **where,
        )


def test_several_are_a_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    options = [part for name, value in POINTS.items() for part in (f"--{name}", str(value))]
    command = ["train-together", "--activations", activations_of(store).uri, *options, "--store", store.url, "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert [each["architecture"] for each in json.loads(result.stdout)] == ["topk", "standard"]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_the_step_at_which_memory_ran_out(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    store = open_store(str(tmp_path_factory.mktemp("memory")))
    losses = TopKTraining.losses

    def in_small_memory(self: TopKTraining, x_TD: torch.Tensor, y_TE: torch.Tensor, stage: Stage) -> Losses:
        if stage.progress >= 0.5 and len(x_TD) > 60:
            raise torch.OutOfMemoryError
        return losses(self, x_TD, y_TE, stage)

    monkeypatch.setattr(TopKTraining, "losses", in_small_memory)
    activations = publish_activations(store, plant(1_000, width=12).acts_ND).uri
    steps.run_step(
        "train", activations=activations, width=64, k=3, tokens=2_000, batch_size=200, device="cpu", store=store.url
    )
    client = tracking.MlflowClient(f"sqlite:///{store.url}/.mistudio/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    points = client.get_metric_history(run.info.run_id, "micro_batches")
    assert [(point.step, point.value) for point in points] == [(step, 1 if step <= 5 else 4) for step in range(1, 11)]
    assert run.data.params["micro_batches"] == "1"  # what was asked for
