"""A real MLflow server behind runs: what it is told, what it registers, whose runs are whose, and when it is away."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mistudio import steps
from mistudio.artifacts import open_artifact, open_store
from mistudio.tracking import Connection, Dataset, Model, Run, step_run
from mistudio.tracking.client import MLFLOW_SETTINGS
from mistudio.tracking.kubeflow import CONFIG_ENV
from mistudio.tracking.views import FACTS, FIGURES
from tests.support.mlflow_server import MlflowServer, dump, find_postgres, mlflow_server
from tests.support.tiny import tiny_documents, tiny_llama
from tests.support.tiny_run import HOOK, make_llama_run

pytestmark = [pytest.mark.proof, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]

ROOT = Path(__file__).parents[2]
STEPS = ("ingest", "capture", "train", "evaluate", "find-part", "find", "explain", "score", "report", "register")


class Finished(NamedTuple):
    """A pipeline that has run to its end."""

    folder: Path
    server: MlflowServer

    @property
    def store(self) -> str:
        return str(self.folder / "store")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    pytest.importorskip("mlflow.tracking")
    with mlflow_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def client(server: MlflowServer) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(server.url)


@pytest.fixture(autouse=True)
def _told(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MISTUDIO_PARENT_RUN_ID", CONFIG_ENV):
        monkeypatch.delenv(name, raising=False)
    for name, value in MLFLOW_SETTINGS.items():  # which are set as they are first used
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MISTUDIO_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)


def mistudio(server: MlflowServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISTUDIO_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(ROOT), "MLFLOW_TRACKING_URI": server.url}
    environment |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    command = [sys.executable, "-c", "from mistudio.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def finished(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("interpret")
    tiny_llama(folder / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    values = {"model": folder / "model", "corpus": folder / "text.jsonl", "train_tokens": 20_000, "width": 128, "k": 4}
    values |= {"contexts": 5, "register_as": "tiny"}
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    done = mistudio(server, "run", "interpret", "--store", str(folder / "store"), *sets)
    assert done.returncode == 0, done.stderr
    assert "MLflow cannot be used" not in done.stderr
    return Finished(folder, server)


def experiment(client: Any) -> Any:
    return client.get_experiment_by_name("mistudio")


def runs_of(client: Any, store: str) -> tuple[Any, dict[str, Any]]:
    """The run of the pipeline in a store, and those of its steps by name."""
    runs = client.search_runs([experiment(client).experiment_id])
    (pipeline,) = (run for run in runs if run.data.params.get("store") == store)
    own = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == pipeline.info.run_id]
    return pipeline, {run.data.tags["mistudio.step"]: run for run in own}


def test_postgres_is_behind_the_server_where_it_is_installed(server: MlflowServer) -> None:
    assert server.database.startswith("postgresql" if find_postgres() else "sqlite")


def test_the_experiment_opens_as_machine_learning_with_the_columns_that_matter(client: Any, finished: Finished) -> None:
    tags = experiment(client).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.note.content"].startswith("Sparse autoencoders")
    columns = json.loads(tags["mlflow.sharedViewState.pipelines"])["selectedColumns"]
    assert {f"metrics.`{name}`" for name in FIGURES} | {f"tags.`{name}`" for name in FACTS} < set(columns)
    pipeline, _ = runs_of(client, finished.store)
    assert set(FIGURES) <= pipeline.data.metrics.keys()
    assert set(FACTS) <= pipeline.data.tags.keys()


def test_runs_say_what_they_are_without_being_edited(client: Any, finished: Finished) -> None:
    pipeline, nested = runs_of(client, finished.store)
    assert pipeline.info.run_name == "model resid_post.1 topk width 128 k4 seed 0"
    assert set(nested) == set(STEPS)
    assert nested["train"].info.run_name == "train topk width 128 k4 seed 0"
    assert nested["capture"].info.run_name == "capture model resid_post.1"
    assert nested["register"].info.run_name == "register tiny/1"
    assert {run.info.status for run in [pipeline, *nested.values()]} == {"FINISHED"}
    note = pipeline.data.tags["mlflow.note.content"]
    assert note.startswith("**CE recovered")
    assert "## Lineage" in note
    assert "| tokens |" in nested["evaluate"].data.tags["mlflow.note.content"]


def test_corpus_and_activations_are_datasets_with_their_digests(client: Any, finished: Finished) -> None:
    pipeline, nested = runs_of(client, finished.store)
    for run, context in ((pipeline, "training"), (nested["train"], "training"), (nested["evaluate"], "evaluation")):
        found = {each.dataset.name: each for each in run.inputs.dataset_inputs}
        assert set(found) == {"text.jsonl", "model resid_post.1"}
        source = json.loads(found["text.jsonl"].dataset.source)
        assert source["uri"] == pipeline.data.tags["ingest.uri"]
        assert source["digest"] == pipeline.data.tags["ingest.digest"]
        assert {tag.value for each in found.values() for tag in each.tags} == {context}


def test_the_autoencoder_is_a_logged_model_with_figures_and_without_weights(
    client: Any, finished: Finished, tmp_path: Path
) -> None:
    pipeline, nested = runs_of(client, finished.store)
    (model,) = client.search_logged_models([experiment(client).experiment_id], "params.width = '128'")
    assert str(model.status) == "READY"
    assert model.source_run_id == nested["train"].info.run_id
    assert model.tags["sae.uri"] == pipeline.data.tags["train.uri"]
    assert model.tags["sae.digest"] == pipeline.data.tags["train.digest"]
    figures = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert figures["ce_recovered"] == (pipeline.data.metrics["ce_recovered"], "text.jsonl")
    assert figures["interpretable"][0] == pipeline.data.metrics["interpretable"]
    assert [each.model_id for each in pipeline.outputs.model_outputs] == [model.model_id]
    assert model.artifact_location.startswith("mlflow-artifacts:")
    (file,) = client.list_logged_model_artifacts(model.model_id)
    assert file.path == "manifest.json"
    (kept,) = finished.server.artifacts.rglob(f"{model.model_id}/**/manifest.json")
    assert json.loads(kept.read_text())["kind"] == "mistudio.sae/3"


def test_the_server_keeps_plots_and_the_dashboard(client: Any, finished: Finished) -> None:
    _, nested = runs_of(client, finished.store)
    files = {step: {file.path for file in client.list_artifacts(run.info.run_id)} for step, run in nested.items()}
    assert {"density.png", "redundancy.png", "cross_entropy.png"} <= files["evaluate"]
    assert "dashboard.html" in files["report"]
    assert nested["report"].info.artifact_uri.startswith("mlflow-artifacts:")


def test_nothing_is_logged_twice(client: Any, finished: Finished) -> None:
    pipeline, nested = runs_of(client, finished.store)
    for run in (pipeline, *nested.values()):
        for name in run.data.metrics:
            points = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert len(points) == len(set(points)), (run.info.run_name, name)
    assert len(client.search_logged_models([experiment(client).experiment_id], "params.width = '128'")) == 1


def test_the_autoencoder_is_registered_with_its_lineage_and_promoted_by_one_command(
    client: Any, finished: Finished
) -> None:
    pipeline, nested = runs_of(client, finished.store)
    version = client.get_model_version_by_alias("tiny", "candidate")
    tags, known = version.tags, pipeline.data.tags
    assert (str(version.version), version.run_id) == ("1", nested["train"].info.run_id)
    of = {"sae": "train", "activations": "capture", "corpus": "ingest", "evaluation": "evaluate", "scores": "score"}
    for role, step in of.items():
        assert (tags[f"{role}.uri"], tags[f"{role}.digest"]) == (known[f"{step}.uri"], known[f"{step}.digest"])
    assert tags["subject.uri"] == "folder:model"
    assert float(tags["ce_recovered"]) == pytest.approx(pipeline.data.metrics["ce_recovered"])
    where = ("--store", finished.store)
    done = mistudio(finished.server, "promote", "tiny", "--author", "ada", *where)
    assert done.stdout.startswith("champion of tiny is now version 1"), done.stderr
    assert str(client.get_model_version_by_alias("tiny", "champion").version) == "1"
    # The same autoencoder makes no second version.
    again = mistudio(finished.server, "register", "--sae", known["train.uri"], "--name", "tiny", *where)
    assert again.stdout == "tiny/1\n", again.stderr
    assert len(client.search_model_versions("name = 'tiny'")) == 1
    (model,) = client.search_logged_models([experiment(client).experiment_id], "params.width = '128'")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "tiny", "version": "1"}]


class Kubeflow:
    """Kubeflow's MLflow plugin, as it makes, injects and closes runs: from the source of KFP's API server and launcher.

    Args:
        client: of MLflow.
        url: of its server.
    """

    def __init__(self, client: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._client, self._url, self._patch = client, url, monkeypatch
        found = client.get_experiment_by_name("Default")
        self.experiment = found.experiment_id
        tags = {"kfp.pipeline_run_id": "1234", "kfp.pipeline_id": "5678"}
        self.root = client.create_run(self.experiment, tags=tags, run_name="interpret 2026").info.run_id

    def begin(self, task: str, parent: str = "") -> str:
        """Make the task's run, and set what its container is told."""
        tags = {"mlflow.parentRunId": parent or self.root}
        run_id: str = self._client.create_run(self.experiment, tags=tags, run_name=task).info.run_id
        config = {
            "endpoint": self._url,
            "parentRunId": self.root,
            "experimentId": self.experiment,
            "authType": "none",
            "timeout": "30s",
            "injectUserEnvVars": True,
        }
        for name, value in {
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_TRACKING_URI": self._url,
            "MLFLOW_EXPERIMENT_ID": self.experiment,
            CONFIG_ENV: json.dumps(config),
        }.items():
            self._patch.setenv(name, value)
        return run_id

    def end(self, run_id: str, parameters: dict[str, object], metrics: dict[str, float]) -> None:
        """Log parameters, as JSON, and the figures of Metrics artifacts in one batch; close the run."""
        from mlflow.entities import Metric, Param

        assert self._client.get_run(run_id).info.status == "RUNNING"
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 0) for name, value in metrics.items()],
            params=[Param(name, json.dumps(value)) for name, value in parameters.items()],
        )
        self._client.set_terminated(run_id, "FINISHED")


def points(client: Any, run_id: str) -> dict[str, int]:
    """How many points each figure of a run has, over how many steps."""
    metrics = client.get_run(run_id).data.metrics
    histories = {name: [point.step for point in client.get_metric_history(run_id, name)] for name in metrics}
    return {name: len(steps_of) - len(set(steps_of)) for name, steps_of in histories.items()}


def test_the_runs_that_kubeflows_plugin_made_are_continued_and_left_open_and_nothing_is_there_twice(
    client: Any, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = make_llama_run(tmp_path)
    kubeflow = Kubeflow(client, server.url, monkeypatch)
    common = {"store": tiny.store.url, "device": "cpu"}

    train = kubeflow.begin("train")
    asked = {"hook": HOOK, "architecture": "topk", "width": 64, "k": 4, "tokens": 4000, "seed": 0}
    sae = steps.run_step("train", activations=tiny.activations.uri, **asked, **common).artifact
    kubeflow.end(train, {**asked, "train_settings": "", "l1_coefficient": -1.0}, {})

    evaluate = kubeflow.begin("evaluate")
    done = steps.run_step("evaluate", sae=sae.uri, model=str(tmp_path / "model"), **common)
    kubeflow.end(evaluate, {"model": str(tmp_path / "model"), "store": tiny.store.url}, done.metrics())

    # A task that is retried, in the same run, finds what it made.
    assert steps.run_step("evaluate", sae=sae.uri, model=str(tmp_path / "model"), **common).found

    runs = {name: client.get_run(run_id) for name, run_id in (("train", train), ("evaluate", evaluate))}
    assert runs["train"].info.run_name == "train topk width 64 k4 seed 0"
    assert runs["train"].data.params["architecture"] == '"topk"'  # as it was given, by Kubeflow
    assert runs["train"].data.params["config.sae.architecture"] == "topk"  # as it was used
    assert runs["train"].data.tags["train.digest"] == sae.digest
    assert done.metrics().items() <= runs["evaluate"].data.metrics.items()
    for run_id in (train, evaluate, kubeflow.root):
        assert set(points(client, run_id).values()) == {0}, client.get_run(run_id).info.run_name

    root = client.get_run(kubeflow.root)
    assert (root.info.status, root.info.run_name) == ("RUNNING", "interpret 2026")
    assert root.data.metrics["ce_recovered"] == done.metrics()["ce_recovered"]
    assert root.data.tags["evaluate.digest"] == done.artifact.digest
    assert root.data.tags["architecture"] == "topk"
    (model,) = client.search_logged_models([kubeflow.experiment])
    assert model.source_run_id == train
    assert {metric.key: metric.value for metric in model.metrics}["l0"] == 4.0
    assert len(client.search_runs([kubeflow.experiment])) == 3


def test_a_task_in_a_loop_says_nothing_on_the_pipelines_run(
    client: Any, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = make_llama_run(tmp_path)
    kubeflow = Kubeflow(client, server.url, monkeypatch)
    loop = client.create_run(kubeflow.experiment, tags={"mlflow.parentRunId": kubeflow.root}).info.run_id
    kubeflow.begin("train", parent=loop)
    asked = {"hook": HOOK, "width": 64, "k": 2, "tokens": 4000, "device": "cpu", "store": tiny.store.url}
    steps.run_step("train", activations=tiny.activations.uri, **asked)
    root = client.get_run(kubeflow.root).data
    assert (dict(root.metrics), "train.uri" in root.tags) == ({}, False)


def test_a_curve_goes_on_where_it_was_cut(
    client: Any, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = Kubeflow(client, server.url, monkeypatch).begin("train")
    for begin, end in ((1, 6), (4, 9)):  # the second goes on from a checkpoint before the end of the first
        with step_run("train", str(tmp_path)) as run:
            for step in range(begin, end):
                run.log_metrics({"fvu": 1 / step}, step)
    assert [point.step for point in client.get_metric_history(run_id, "fvu")] == list(range(1, 9))


def test_no_secret_reaches_the_server(
    client: Any, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, token, password = "orange-lemon-12345", "hf_" + "a1b2c3d4e5" * 3, "hunter22222"
    monkeypatch.setenv("MISTUDIO_LLM_API_KEY", key)
    told = f"{key} {token} https://ada:{password}@hub.example/x?api_key={password} AKIA1234567890ABCDEF"
    connection = Connection()
    run = Run("ingest", str(tmp_path), connection=connection, title=f"first {told}")
    run.log_params({"corpus": told})
    run.set_tags({"about": told})
    run.rename(f"ingest {told}")
    run.describe(f"| {told} |\n" * 300)
    run.log_datasets([Dataset(told, "0" * 64, told, told, "training", {"where": told})])
    run.log_model(Model(told, "1" * 64, told, {"corpus": told}, {"about": told}, told.encode()))
    (tmp_path / f"{token}.jsonl").write_text(
        "".join(json.dumps(document) + "\n" for document in tiny_documents(20)), encoding="utf-8"
    )
    source = tiny_llama(tmp_path / "model")
    corpus = str(tmp_path / f"{token}.jsonl")
    steps.run_step("ingest", model=str(source.path), corpus=corpus, context_length=24, store=str(tmp_path / "store"))
    assert connection.failure == ""
    run.finish()
    kept = [path.read_bytes() for path in server.artifacts.rglob("*") if path.is_file()]
    everything = dump(server)
    assert "first *** ***" in everything or "ingest *** ***" in everything
    for secret in (key, token, password, "AKIA1234567890ABCDEF"):
        assert secret not in everything
        assert not any(secret.encode() in each for each in kept)


def test_a_server_that_is_away_costs_one_line_and_is_caught_up_with(client: Any, finished: Finished) -> None:
    where = ("--store", finished.store)
    store = open_store(finished.store)
    pipeline, _ = runs_of(client, finished.store)
    sae = open_artifact(store, pipeline.data.tags["train.uri"])
    finished.server.stop()
    try:
        done = mistudio(finished.server, "register", "--sae", sae.uri, "--name", "later", *where)
    finally:
        finished.server.start()
    assert (done.returncode, done.stdout) == (0, "later/1\n"), done.stderr
    assert done.stderr.count("MLflow cannot be used") == 1
    assert "mistudio mlflow sync" in done.stderr
    caught_up = mistudio(finished.server, "mlflow", "sync", *where)
    assert caught_up.returncode == 0, caught_up.stderr
    assert client.get_model_version_by_alias("later", "candidate").tags["sae.digest"] == sae.digest
