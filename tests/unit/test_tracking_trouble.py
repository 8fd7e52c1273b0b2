"""MLflow that cannot be used: the work is done and published all the same, and logged later."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mistudio import steps, tracking
from mistudio.artifacts import Produced, Recipe, open_store, produce
from mistudio.cli import app
from mistudio.errors import ConfigError, StorageError
from mistudio.steps import catching_up
from mistudio.steps.catching_up import log_missing
from mistudio.tracking import Connection, client, connection, pipeline_run, step_run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(autouse=True)
def _tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "MISTUDIO_PARENT_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MISTUDIO_TRACKING", "on")
    for name in client.MLFLOW_SETTINGS:  # which are set as they are first used
        monkeypatch.setenv(name, os.environ.get(name, client.MLFLOW_SETTINGS[name]))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(connection, "PATIENCE_S", 1.0)
    monkeypatch.setattr(client, "LOCKED_S", 0.1)
    pytest.importorskip("mlflow.tracking")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def scratch(folder: Path) -> Path:
    private = folder / "store" / ".mistudio"
    private.mkdir(parents=True)
    return private


def silent(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    patch.setenv("MLFLOW_TRACKING_URI", server)


def refused(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")


def corrupt(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    (scratch(folder) / "mlflow.db").write_bytes(b"no database" * 1000)


def locked(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    database = sqlite3.connect(scratch(folder) / "mlflow.db", isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    patch.setattr(tracking, "held_by_the_test", database, raising=False)


def in_the_way(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    (scratch(folder) / "mlflow.db").mkdir()


def unknown_scheme(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    patch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")


def misread(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    patch.setenv("MISTUDIO_SCRATCH", str(folder / "what?#"))


def folder_is_a_file(folder: Path, patch: pytest.MonkeyPatch, server: str) -> None:
    (folder / "scratch").write_text("")
    patch.setenv("MISTUDIO_SCRATCH", str(folder / "scratch"))


TROUBLES: list[Callable[[Path, pytest.MonkeyPatch, str], None]] = [
    silent,
    refused,
    corrupt,
    locked,
    in_the_way,
    unknown_scheme,
    misread,
    folder_is_a_file,
]


def publish(store_url: str, log: Callable[[dict[str, Any]], None] = lambda _: None) -> Produced:
    log({"k": 4})
    return produce(
        open_store(store_url),
        Recipe(kind="sae", schema_version=1, config={"k": 4}, inputs={}, seed=0),
        "train",
        lambda _: {"fvu": 0.5},
    )


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_said_once_and_the_work_goes_on(
    trouble: Callable[[Path, pytest.MonkeyPatch, str], None],
    silent_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trouble(tmp_path, monkeypatch, silent_server)
    store = str(tmp_path / "store")
    with step_run("train", store) as run:
        made = publish(store, run.log_params)
        with run.child("one of several") as child:
            child.log_metrics({"fvu": 0.5})
        assert not run.is_tracked
    assert open_store(store).find(f"{made.artifact.uri}/manifest.json")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("MLflow cannot be used (")
    assert "mistudio mlflow sync" in said[0]
    assert "\n" not in said[0]
    assert len(said[0]) < 350


def test_what_a_pipeline_cannot_reach_its_steps_do_not_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt(tmp_path, monkeypatch, "")
    with pipeline_run("interpret", str(tmp_path / "store")) as pipeline:
        pipeline.log_params({"k": 4})
        assert not tracking.is_tracking()
    assert tracking.is_tracking()
    assert len(caplog.messages) == 1


def test_a_run_that_loses_mlflow_in_the_middle_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Lost:
        def log_batch(self, *_: object, **__: object) -> None:
            raise sqlite3.OperationalError("attempt to write a readonly database\n[SQL: ...]")

    with step_run("train", str(tmp_path)) as run:
        run._client, run._run_id = Lost(), "1"
        run.log_metrics({"fvu": 0.5}, 1)
        run.log_params({"k": 4})
    assert caplog.messages == [
        "MLflow cannot be used (attempt to write a readonly database). The work goes on; log it later with: "
        "mistudio mlflow sync"
    ]


def test_a_slow_answer_is_waited_for_as_long_as_there_is_patience_and_no_longer() -> None:
    go_on = threading.Event()
    connection = Connection()
    assert connection.ask(lambda: 1) == 1
    assert connection.ask(lambda: go_on.wait(60), most_s=0.01) is None
    go_on.set()
    assert "no answer" in connection.failure
    assert connection.ask(lambda: 1) is None


OPEN = """
import sys
from mistudio.tracking import step_run
with step_run("train", sys.argv[1]) as run:
    run.log_params({"k": 4})
"""


@pytest.mark.proof
def test_processes_that_make_the_database_at_once_all_log_and_what_was_not_logged_is_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 90.0)
    store = str(tmp_path)
    artifact = publish(store).artifact
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN, store], stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [process.communicate()[1] for process in started] == [""] * 2

    from mlflow.tracking import MlflowClient

    plotted: list[str] = []
    monkeypatch.setitem(steps.STEPS, "train", _with_plot(plotted))
    assert list(log_missing(store)) == [artifact.uri]
    assert list(log_missing(store)) == []
    assert plotted == [artifact.uri]
    client = MlflowClient(f"sqlite:///{tmp_path}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    assert len(runs) == 3
    (caught_up,) = (run for run in runs if "train.digest" in run.data.tags)
    assert caught_up.info.status == "FINISHED"
    assert caught_up.data.metrics == {"fvu": 0.5}
    assert caught_up.data.params == {"k": "4", "seed": "0"}
    assert caught_up.info.end_time <= min(run.info.end_time for run in runs if run is not caught_up)


def _with_plot(plotted: list[str]) -> steps.Step:
    import dataclasses

    return dataclasses.replace(steps.STEPS["train"], plot=lambda artifact, _: plotted.append(artifact.uri))


def test_catching_up_says_that_mlflow_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="MLflow cannot be used"):
        list(log_missing(str(tmp_path)))


def test_the_web_interface_takes_no_code_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: started.append(arguments))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    done = CliRunner().invoke(app, ["mlflow", "--port", "5001", "--store", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    ((_, *command),) = started
    assert command[:4] == ["-P", "-m", "mlflow", "server"]
    assert f"--app-dir {tmp_path}/.mistudio" in command
    assert command[command.index("--port") + 1] == "5001"
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_catching_up_is_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(catching_up, "log_missing", lambda store: iter(asked.append(store) or ["sae/1"]))
    for arguments in (["mlflow", "sync", "--store", "here"], ["mlflow", "--store", "here", "sync"]):
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.stdout == "Logged sae/1\n1 artifacts logged.\n"
    assert asked == ["here", "here"]


def test_the_web_interface_of_a_server_that_is_there_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:hunter22@mlflow.example:5000")
    with pytest.raises(ConfigError, match=r"names a server that is there: open https://\*\*\*@mlflow.example:5000"):
        CliRunner().invoke(app, ["mlflow", "--store", str(tmp_path)], catch_exceptions=False)
