"""MLflow: whose runs are whose, and that nothing is logged twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mistudio import steps
from mistudio.errors import CorpusError
from mistudio.events import EVENTS_ENV, EventReader, Started
from mistudio.tracking import EXPERIMENT, pipeline_run, step_run
from tests.support.tiny import tiny_documents, tiny_llama

pytestmark = [pytest.mark.proof, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("database")
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{folder}/mlflow.db").create_experiment(EXPERIMENT, (folder / "mlflow").as_uri())
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def client(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MISTUDIO_PARENT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MISTUDIO_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    from mlflow.tracking import MlflowClient

    shutil.copy(database, tmp_path)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_llama(tmp_path / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(60)]
    (tmp_path / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(tmp_path / "model")


@pytest.fixture
def injected(client: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that somebody else has made for the step, and will close."""
    run = client.create_run(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    return str(run.info.run_id)


def all_runs(client: Any) -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]))


def ingest(model: str, folder: Path, corpus: str = "text.jsonl") -> steps.StepOutput:
    return steps.run_step(
        "ingest", model=model, corpus=str(folder / corpus), context_length=24, store=str(folder / "store")
    )


def test_a_run_that_was_made_for_the_step_is_continued_and_left_open(
    client: Any, injected: str, model: str, tmp_path: Path
) -> None:
    made = ingest(model, tmp_path)
    (run,) = all_runs(client)
    assert run.info.run_id == injected
    assert run.info.status == "RUNNING"
    assert run.data.tags["ingest.digest"] == made.artifact.digest
    assert run.data.params["context_length"] == "24"


def test_a_step_that_finds_its_artifact_logs_nothing_a_second_time(
    client: Any, injected: str, model: str, tmp_path: Path
) -> None:
    assert not ingest(model, tmp_path).found
    assert ingest(model, tmp_path).found
    (run,) = all_runs(client)
    assert run.data.metrics
    assert {len(client.get_metric_history(injected, name)) for name in run.data.metrics} == {1}


def test_a_step_that_fails_leaves_closing_to_who_made_the_run(
    client: Any, injected: str, model: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(CorpusError):
        ingest(model, tmp_path, "empty.jsonl")
    (run,) = all_runs(client)
    assert (run.info.run_id, run.info.status) == (injected, "RUNNING")


def test_a_pipeline_takes_the_run_that_was_made_for_it_and_its_steps_have_their_own(
    client: Any, injected: str, tmp_path: Path
) -> None:
    with pipeline_run("interpret", str(tmp_path)) as pipeline:
        pipeline.log_params({"k": 4})
        for k in (4, 8):
            with step_run("train", str(tmp_path)) as step:
                step.log_params({"k": k})
    runs = {run.info.run_id: run for run in all_runs(client)}
    assert runs.pop(injected).info.status == "RUNNING"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {injected}
    assert {run.data.params["k"] for run in runs.values()} == {"4", "8"}


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_says_whether_it_failed_or_was_ended(
    client: Any, tmp_path: Path, error: type[BaseException], status: str
) -> None:
    def end() -> None:
        with step_run("train", str(tmp_path)) as run:
            run.log_params({"k": 4})
            raise error

    with pytest.raises(error):
        end()
    assert [run.info.status for run in all_runs(client)] == [status]


def test_two_steps_in_one_process_have_each_its_run_and_its_events(
    client: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EVENTS_ENV, str(tmp_path / "events.jsonl"))
    corpus = ingest(model, tmp_path).artifact
    steps.run_step(
        "capture", corpus=corpus.uri, model=model, hook="mlp_out.0", device="cpu", store=str(tmp_path / "store")
    )
    runs = {run.data.tags["mistudio.step"]: run for run in all_runs(client)}
    names = {step: run.info.run_name for step, run in runs.items()}
    assert names == {"ingest": "ingest text.jsonl", "capture": "capture model mlp_out.0"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert "hooks" not in runs["ingest"].data.params
    events = EventReader(tmp_path / "events.jsonl").read()
    order = [event.step for event in events]
    assert order == sorted(order, key=["ingest", "capture"].index)
    assert [event.step for event in events if isinstance(event, Started)] == ["ingest", "capture"]
