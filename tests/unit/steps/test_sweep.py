"""The grid of a sweep, and the comparison as a step, as a command and in MLflow."""

import json

import pytest
from typer.testing import CliRunner

from mistudio import steps
from mistudio.artifacts import Store, open_store
from mistudio.cli import app
from mistudio.errors import ConfigError, InputError
from mistudio.events import EVENTS_ENV
from mistudio.sae import built_in_configs
from mistudio.steps import check_together
from pipelines import sweep
from tests.support.fake_sweep import jumprelu, publish_evaluation, topk


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def two(store: Store) -> str:
    made = (publish_evaluation(store, topk(8), seed=3), publish_evaluation(store, jumprelu(8.0), l0=8.2))
    return ", ".join(evaluation.uri for evaluation in made)


def test_a_grid_has_every_combination_with_the_setting_that_each_architecture_has() -> None:
    points = steps.call("grid", architectures="topk, jumprelu", widths="64,128", sparsities="4,8", seeds="0,1")
    assert len(points) == 16
    assert points[0] == {"architecture": "topk", "width": 64, "k": 4, "target_l0": -1.0, "seed": 0}
    assert points[-1] == {"architecture": "jumprelu", "width": 128, "k": -1, "target_l0": 8.0, "seed": 1}


def test_the_default_grid_is_every_built_in_architecture_at_a_width_that_training_chooses() -> None:
    points = steps.call("grid")
    assert len(points) == 4 * len(built_in_configs())
    assert {point["width"] for point in points} == {-1}
    with_k = {point["architecture"] for point in points if point["k"] != -1}
    assert with_k == {name for name, config in built_in_configs().items() if config.l0_setting == "k"}


def test_a_grid_says_how_many_autoencoders_it_asks_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS_ENV, str(tmp_path / "events.jsonl"))
    steps.call("grid", architectures="topk", widths="64", sparsities="4,8", seeds="0,1")
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["event"], event["text"]) == ("message", "4 autoencoders to train and evaluate")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"architectures": "topk,relu"}, "architecture 'relu' is unknown: use one of topk"),
        ({"widths": "8"}, "width 8 is too small"),
        ({"widths": "65536"}, "width 65,536 is above 32,768"),
        ({"widths": "wide"}, "widths takes whole numbers with commas between them, not 'wide'"),
        ({"sparsities": "8,-1"}, "sparsities names -1"),
        ({"sparsities": "4.5"}, "topk keeps a whole number of features active, not 4.5"),
        ({"sparsities": "200", "widths": "128"}, "k 200 is larger than width 128"),
        ({"architectures": "gated", "sparsities": "200", "widths": "128"}, "target_l0 200 must be below width 128"),
        ({"seeds": "0,1,0"}, "seeds names 0 twice"),
        ({"seeds": ""}, "The sweep is empty"),
        ({"train_settings": '{"k": 4}'}, "train_settings names sae.k, which sparsities sets"),
        ({"train_settings": '{"width": 512}'}, "which widths sets"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused_before_anything_runs(axes: dict[str, str], message: str) -> None:
    for refused in (lambda: steps.call("grid", **axes), lambda: check_together(sweep.TAKES, axes)):
        with pytest.raises(ConfigError) as raised:
            refused()
        assert message in str(raised.value)


def test_a_comparison_is_made_once_and_found_after(store: Store, two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    first, again = (steps.run_step("compare", evaluations=two, store=store.url) for _ in range(2))
    assert (first.found, again.found) == (False, True)
    assert first.artifact.uri.startswith("comparison/")
    with pytest.raises(InputError, match="compare needs evaluations"):
        steps.run_step("compare", evaluations="", store=store.url)
    with pytest.raises(ConfigError, match="keep"):
        steps.run_step("compare", evaluations=two, keep=2.0, store=store.url)


def test_compare_is_a_command(store: Store, two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    result = CliRunner().invoke(app, ["compare", "--evaluations", two, "--store", store.url, "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["step"], shown["autoencoders"]) == ("compare", 2)
    assert "evaluation/0123456789abcdef,evaluation/" in CliRunner().invoke(app, ["compare", "--help"]).output


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_a_run_for_each_point_with_its_settings_and_final_figures(store: Store, two: str) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    done = steps.run_step("compare", evaluations=two, store=store.url)
    client = tracking.MlflowClient(f"sqlite:///{store.url}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    (parent,) = (run for run in runs if run.data.tags.get("mistudio.step") == "compare")
    assert parent.info.run_name == "compare 2 autoencoders stories260K resid_post.2"
    points = {r.info.run_name: r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(points) == {"topk width 1024 k8 seed 3", "jumprelu width 1024 target L0 8 seed 0"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    topk_run = points["topk width 1024 k8 seed 3"].data
    assert (topk_run.params["sae.k"], topk_run.params["seed"]) == ("8", "3")
    assert topk_run.metrics["ce_recovered"] == 0.98
    assert {"seconds.train", "seconds.evaluate"} <= topk_run.metrics.keys()
    assert topk_run.tags["train.uri"].startswith("sae/")
    assert (topk_run.tags["model"], topk_run.tags["sparsity"]) == ("stories260K", "k8")
    models = {
        model.tags["sae.uri"]: model.params["architecture"]
        for model in client.search_logged_models([client.get_experiment_by_name("mistudio").experiment_id])
    }
    assert sorted(models.values()) == ["jumprelu", "topk"]
    assert models[topk_run.tags["train.uri"]] == "topk"
    assert parent.data.metrics["autoencoders"] == 2
    assert "comparison.html" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert done.metrics()["ce_recovered"] == 0.98
