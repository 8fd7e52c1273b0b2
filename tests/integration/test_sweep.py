"""A sweep, run as a user runs it: the command line, KFP's local runner with its loop, MLflow in SQLite."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.integration.test_interpret import mistudio
from tests.support.tiny import tiny_documents, tiny_llama

pytestmark = pytest.mark.proof
AXES = {"architectures": "topk,jumprelu", "widths": "128", "sparsities": "4", "seeds": "0"}
STEPS = ("ingest", "capture", "train", "evaluate", "compare")


class Finished(NamedTuple):
    """A sweep that came to its end."""

    folder: Path
    summary: dict
    output: str
    log: str

    @property
    def store(self) -> Path:
        return self.folder / "store"


def sweep(folder: Path, summary: str, **settings: str):
    values = {"model": str(folder / "model"), "corpus": str(folder / "text.jsonl"), "train_tokens": "20000"}
    sets = [part for name, value in (values | AXES | settings).items() for part in ("--set", f"{name}={value}")]
    command = ("run", "sweep", "--store", str(folder / "store"), "--summary", str(folder / summary), *sets)
    return mistudio(*command, timeout_s=580)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("sweep")
    tiny_llama(folder / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    done = sweep(folder, "first.json")
    assert done.returncode == 0, done.stderr
    return Finished(folder, json.loads((folder / "first.json").read_text()), done.stdout, done.stderr)


def test_every_point_is_trained_and_evaluated_on_one_capture_and_compared(finished: Finished) -> None:
    artifacts = finished.summary["artifacts"]
    assert tuple(artifacts) == STEPS
    assert (len(artifacts["train"]), len(artifacts["evaluate"])) == (2, 2)
    assert "2 autoencoders to train and evaluate" in finished.log
    rows = pq.read_table(finished.store / artifacts["compare"]["uri"] / "points.parquet").to_pylist()
    asked = {(row["architecture"], row["width"], row["sparsity_setting"], row["sparsity"]) for row in rows}
    assert asked == {("topk", 128, "k", 4.0), ("jumprelu", 128, "target L0", 4.0)}
    assert {row["sae"] for row in rows} == {artifact["uri"] for artifact in artifacts["train"]}


def test_the_best_is_in_the_closing_table_with_its_rule_and_page(finished: Finished) -> None:
    comparison = finished.store / finished.summary["artifacts"]["compare"]["uri"]
    content = json.loads((comparison / "comparison.json").read_text())
    assert finished.summary["best"] == content["best"]
    assert finished.summary["rule"] == content["rule"]
    chosen = next(each for each in content["configurations"] if each["name"] == content["best"])
    assert finished.summary["ce_recovered"] == pytest.approx(chosen["figures"]["ce_recovered"]["mean"], abs=1e-5)
    assert str(comparison / "comparison.html") in finished.output
    assert content["best"] in " ".join(finished.output.split())


def test_kubeflow_gets_the_page_and_the_figures_of_the_best(finished: Finished) -> None:
    (outputs,) = finished.store.glob(".mistudio/runs/*/kfp/*")
    page = next(outputs.glob("compare/page")).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert finished.summary["best"] in page
    assert json.loads(next(outputs.glob("compare/comparison")).read_text())["kind"] == "mistudio.comparison/1"


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_the_sweep_its_steps_and_a_run_for_each_point(finished: Finished) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.store}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    (parent,) = (run for run in runs if "mistudio.pipeline" in run.data.tags)
    assert parent.info.run_name == "sweep model resid_post.1 2 autoencoders"
    steps = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    names = sorted(run.data.tags["mistudio.step"] for run in steps)
    assert names == sorted(["ingest", "capture", "compare", *2 * ["train"], *2 * ["evaluate"]])
    (compared,) = (run for run in steps if run.data.tags["mistudio.step"] == "compare")
    points = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == compared.info.run_id]
    assert sorted(run.data.params["sae.architecture"] for run in points) == ["jumprelu", "topk"]
    assert all(run.data.metrics["ce_recovered"] < 1.5 for run in points)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.params["sparsities"] == "4"
    assert parent.data.metrics["ce_recovered"] == pytest.approx(finished.summary["ce_recovered"])
    assert parent.data.tags["compare.digest"] == finished.summary["artifacts"]["compare"]["digest"]


def test_a_point_that_fails_is_named_and_the_others_are_published(finished: Finished, tmp_path: Path) -> None:
    for part in ("store", "model", "text.jsonl"):
        copy = shutil.copytree if (finished.folder / part).is_dir() else shutil.copy
        copy(finished.folder / part, tmp_path / part)
    store = tmp_path / "store"
    rows = pq.read_table(store / finished.summary["artifacts"]["compare"]["uri"] / "points.parquet").to_pylist()
    damaged = next(row for row in rows if row["architecture"] == "topk")
    shutil.rmtree(store / damaged["evaluation"])
    weights = store / damaged["sae"] / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")

    done = sweep(tmp_path, "second.json", architectures="topk", seeds="0,1")

    assert done.returncode == 2, done.stderr
    message = " ".join(done.stderr.partition("Error:")[2].split())
    assert message.startswith(f"evaluate ({damaged['sae']}): ")
    assert "has other content than was published" in message
    evaluated = {
        json.loads(path.read_text())["inputs"]["sae"]["uri"] for path in store.glob("evaluation/*/manifest.json")
    }
    trained = {f"sae/{path.parent.name}" for path in store.glob("sae/*/manifest.json")}
    assert len(trained) == 3  # the two that were there, and seed 1
    assert trained - evaluated == {damaged["sae"]}


def test_a_grid_that_cannot_be_trained_is_refused_before_anything_runs(tmp_path: Path) -> None:
    done = sweep(tmp_path, "none.json", architectures="topk,relu")
    assert done.returncode == 2
    assert "architecture 'relu' is unknown" in " ".join(done.stderr.split())
    assert not (tmp_path / "store").exists()
