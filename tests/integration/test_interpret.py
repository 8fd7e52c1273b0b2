"""The main job, run as a user runs it: the command line, KFP's local runner, MLflow in SQLite."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from mistudio.subject.devices import has_gpu_driver
from tests.support.tiny import tiny_documents, tiny_llama

ROOT = Path(__file__).parents[2]
STEPS = ("ingest", "capture", "train", "evaluate", "find_part", "find", "explain", "score", "report")
FIGURES = ("l0", "explained_variance", "dead_fraction", "ce_recovered")
SCORED = ("interpretable", "explained")


class Finished(NamedTuple):
    """A run that came to its end."""

    folder: Path
    summary: dict
    output: str

    @property
    def store(self) -> Path:
        return self.folder / "store"


def artifacts(summary: dict, step: str) -> list[dict]:
    """What a step published; one that ran in parts has several."""
    made = summary["artifacts"][step]
    return made if isinstance(made, list) else [made]


def mistudio(*arguments: str, cwd: Path = ROOT, timeout_s: float = 580) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISTUDIO_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(ROOT)}
    command = [sys.executable, "-c", "from mistudio.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s)


def interpret(folder: Path, summary: str, *settings: str) -> subprocess.CompletedProcess[str]:
    values = {
        "model": str(folder / "model"),
        "corpus": str(folder / "text.jsonl"),
        "train_tokens": "20000",
        "width": "128",
        "k": "4",
        "contexts": "5",
    }
    values |= dict(setting.split("=", 1) for setting in settings)
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    return mistudio("run", "interpret", "--store", str(folder / "store"), "--summary", str(folder / summary), *sets)


def _digests(summary: dict, step: str) -> set[str]:
    return {artifact["digest"] for artifact in artifacts(summary, step)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interpret")
    tiny_llama(folder / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(prepared: Path) -> Finished:
    done = interpret(prepared, "first.json")
    assert done.returncode == 0, done.stderr
    return Finished(prepared, json.loads((prepared / "first.json").read_text()), done.stdout)


def test_summary_has_the_closing_table_for_ci(finished: Finished) -> None:
    assert set(finished.summary) == {
        "tokens",
        *FIGURES,
        "explained_variance_all",
        "filtered_fraction",
        "ce_recovered_half_width",
        "ce_recovered_random",
        *SCORED,
        "heldout_tokens",
        "seconds",
        "seconds_in_all",
        "artifacts",
    }
    assert 0 <= finished.summary["interpretable"] <= finished.summary["explained"]
    assert all(isinstance(finished.summary[name], float) for name in FIGURES)
    assert finished.summary["tokens"] >= 20_000
    assert tuple(sorted(finished.summary["seconds"])) == tuple(sorted(STEPS))
    for step in STEPS:
        for artifact in artifacts(finished.summary, step):
            assert artifact["found"] is False
            assert (finished.store / artifact["uri"] / "manifest.json").is_file()


def test_output_names_the_dashboard_and_the_command_that_opens_mlflow(finished: Finished) -> None:
    dashboard = finished.store / finished.summary["artifacts"]["report"]["uri"] / "dashboard.html"
    assert str(dashboard) in finished.output
    assert dashboard.is_file()
    assert f"mistudio mlflow --store {finished.store}" in finished.output


def test_second_run_finds_every_step_and_gives_the_same_digests(finished: Finished) -> None:
    done = interpret(finished.folder, "second.json")
    assert done.returncode == 0, done.stderr
    again = json.loads((finished.folder / "second.json").read_text())
    for step in STEPS:
        assert all(artifact["found"] for artifact in artifacts(again, step))
        assert _digests(again, step) == _digests(finished.summary, step)
    assert [again[name] for name in FIGURES] == [finished.summary[name] for name in FIGURES]


FOUND = """
import json, sys
from mistudio import steps
step = steps.STEPS[sys.argv[1]]
done = (steps.run_step if step.output else steps.call)(step.name, **json.loads(sys.argv[2]))
print(json.dumps({"found": getattr(done, "found", None), "modules": sorted(sys.modules)}))
"""
HEAVY = {
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "sklearn",
    "scipy",
    "umap",
    "mlflow",
    "matplotlib",
    "openai",
}


@pytest.mark.parametrize("step", [*STEPS, "gate"])
def test_a_step_that_finds_its_artifact_imports_nothing_to_compute_with(finished: Finished, step: str) -> None:
    made = {name: [each["uri"] for each in artifacts(finished.summary, name)] for name in STEPS}
    model = {"model": str(finished.folder / "model")}
    sae, [features], [evaluation] = {"sae": made["train"][0]}, made["find"], made["evaluate"]
    parameters = {
        "ingest": {**model, "corpus": str(finished.folder / "text.jsonl")},
        "capture": {**model, "corpus": made["ingest"][0]},
        "train": {"activations": made["capture"][0], "tokens": 20_000, "width": 128, "k": 4},
        "evaluate": {**model, **sae},
        "find_part": {**model, **sae, "part": 1, "num_parts": len(made["find_part"]), "contexts": 5},
        "find": {**model, **sae, "parts": ",".join(made["find_part"]), "contexts": 5},
        "explain": {**model, "features": features},
        "score": {**model, "explanations": made["explain"][0]},
        "report": {"features": features, "evaluation": evaluation, "scores": made["score"][0]},
        "gate": {"evaluation": evaluation, "scores": made["score"][0]},
    }
    settings = json.dumps({**parameters[step], "store": str(finished.store)})
    done = subprocess.run([sys.executable, "-c", FOUND, step, settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["found"] is (None if step == "gate" else True)
    # The number format of a model on a GPU is torch's to say.
    allowed = {"torch"} if has_gpu_driver() else set()
    assert HEAVY & set(told["modules"]) <= allowed


@pytest.mark.proof
def test_a_run_below_its_gate_fails_with_the_figures_and_keeps_everything(finished: Finished) -> None:
    done = interpret(finished.folder, "gate.json", "min_explained_variance=0.9999", "min_interpretable=1000")
    assert done.returncode == 3
    value = finished.summary["explained_variance"]
    assert f"gate failed: explained variance {round(value, 4)}, asked for at least 0.9999" in done.stderr
    assert "interpretable features" in done.stderr
    assert "dead features" not in done.stderr
    written = json.loads((finished.folder / "gate.json").read_text(encoding="utf-8"))
    assert written["explained_variance"] == value
    assert written["interpretable"] == finished.summary["interpretable"]
    assert "gate failed" in written["failed"]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_one_run_for_the_pipeline_and_a_nested_one_for_each_step(finished: Finished) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.store}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    pipelines = sorted((r for r in runs if "mistudio.pipeline" in r.data.tags), key=lambda run: run.info.start_time)
    parent = pipelines[0]
    own = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    nested = {run.data.tags["mistudio.step"]: run for run in own}
    assert parent.info.run_name == "model resid_post.1 topk width 128 k4 seed 0"
    assert nested["train"].info.run_name == "train topk width 128 k4 seed 0"
    assert parent.data.tags["mlflow.note.content"].startswith("**CE recovered ")
    assert {each.dataset.name for each in parent.inputs.dataset_inputs} == {"text.jsonl", "model resid_post.1"}
    assert sorted(nested) == sorted(step.replace("_", "-") for step in STEPS)
    assert {run.info.status for run in [parent, *nested.values()]} == {"FINISHED"}
    for name in FIGURES:
        assert parent.data.metrics[name] == pytest.approx(finished.summary[name])
    assert parent.data.params["k"] == "4"
    assert parent.data.tags["train.digest"] == finished.summary["artifacts"]["train"]["digest"]
    assert len(client.get_metric_history(nested["train"].info.run_id, "fvu")) > 10
    files = {
        step: {file.path for file in client.list_artifacts(nested[step].info.run_id)}
        for step in ("evaluate", "score", "report")
    }
    assert files["evaluate"] == {"density.png", "redundancy.png", "cross_entropy.png"}
    assert files["score"] == {"scores_program.png"}
    assert "dashboard.html" in files["report"]


def test_kfp_artifacts_carry_manifest_metrics_page_and_markdown(finished: Finished) -> None:
    outputs = sorted(finished.store.glob(".mistudio/runs/*/kfp/*"))[0]
    manifest = json.loads(next(outputs.glob("train/sae")).read_text())
    assert manifest["kind"] == "mistudio.sae/3"
    page = next(outputs.glob("report/dashboard")).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "explained variance" in next(outputs.glob("report/summary")).read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param("layer=9", "There is no layer 9: the model has 3 layers, 0 to 2", marks=pytest.mark.proof),
        ("k=0", "k 0 leaves no latent active"),
        ("k=200", "k 200 is larger than width 128"),
        ("hook=nowhere", "'nowhere' is not a hook point"),
        ("colour=red", "'colour' is no parameter of this pipeline"),
        ("width=wide", "width takes a value of type int, not 'wide'"),
        ("model=./nowhere", "No such model folder"),
        ("model=nobody/nothing", "Cannot reach the model hub"),
        pytest.param("corpus=empty.jsonl", "empty.jsonl", marks=pytest.mark.proof),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_2(prepared: Path, tmp_path: Path, setting: str, message: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    name, _, value = setting.partition("=")
    value = str(tmp_path / value) if name == "corpus" else value
    for part in ("model", "text.jsonl"):
        (tmp_path / part).symlink_to(prepared / part)
    done = interpret(tmp_path, "none.json", f"{name}={value}")
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert done.stderr.count("Error:") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none.json").exists()
    published = {path.parent for path in tmp_path.glob("store/*/*/manifest.json")}
    recorded = {path for path in tmp_path.glob("store/*/*") if path.parent.name not in (".mistudio", "actions")}
    assert recorded == published


def test_store_that_cannot_be_written_is_refused(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = mistudio("run", "interpret", "--store", str(tmp_path / "file" / "store"))
    assert done.returncode == 2
    assert "Choose another folder with --store" in " ".join(done.stderr.split())


def test_damaged_artifact_is_named_by_the_next_step(finished: Finished, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished.store, tmp_path / "store")
    uri = finished.summary["artifacts"]["train"]["uri"]
    weights = tmp_path / "store" / uri / "sae.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = mistudio(
        "find", "--sae", uri, "--model", str(finished.folder / "model"), "--contexts", "3",
        "--store", str(tmp_path / "store"),
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{uri}/sae.safetensors has other content than was published" in " ".join(done.stderr.split())
