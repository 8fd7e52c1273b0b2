"""A pipeline as a run: ended from its terminal, ended by id, and left to itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mistudio.events import EVENTS_ENV
from mistudio.runs import LocalRunner, Run
from tests.integration.test_interpret import ROOT, mistudio
from tests.support.tiny import tiny_documents, tiny_llama

pytestmark = pytest.mark.proof
PATIENCE_S = 300


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tiny_llama(folder / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(80)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def command(folder: Path, store: Path, *more: str) -> list[str]:
    values = {"model": folder / "model", "corpus": folder / "text.jsonl", "train_tokens": 2_000_000, "width": 128}
    sets = [part for name, value in {**values, "k": 4}.items() for part in ("--set", f"{name}={value}")]
    return ["run", "interpret", "--store", str(store), *sets, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISTUDIO_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(ROOT)}
    line = [sys.executable, "-c", "from mistudio.cli import main; main()", *arguments]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def processes_of(run: Run) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(EVENTS_ENV) == str(Path(run.log).parent / "events.jsonl"):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_an_interrupted_pipeline_ends_with_all_its_steps_and_goes_on_when_run_again(
    prepared: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    terminal = start(command(prepared, store))
    wait_until(lambda: list(store.glob("sae/*/work/checkpoint-*")) or terminal.poll() is not None)
    terminal.send_signal(signal.SIGINT)
    _, output = terminal.communicate(timeout=PATIENCE_S)
    assert terminal.returncode not in (0, -signal.SIGINT), output
    assert "Run the same command again" in output
    assert "Traceback" not in output
    (run,) = LocalRunner(str(store)).list()
    assert run.state == "cancelled"
    assert [made.step for made in run.artifacts] == ["ingest", "capture"]
    assert processes_of(run) == []

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{store}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    named = {each.data.tags.get("mistudio.step", "interpret"): each.info.status for each in runs}
    assert named == {
        "interpret": "KILLED",
        "ingest": "FINISHED",
        "capture": "FINISHED",
        "train": "KILLED",
    }

    again = start(command(prepared, store))
    wait_until(lambda: len(LocalRunner(str(store)).list()) == 2)
    newest = LocalRunner(str(store)).list()[0]
    wait_until(lambda: len(LocalRunner(str(store)).get(newest.id).artifacts) == 2 or again.poll() is not None)
    assert [made.found for made in LocalRunner(str(store)).get(newest.id).artifacts] == [True, True]
    again.kill()  # which takes the run along
    again.communicate()
    wait_until(lambda: LocalRunner(str(store)).get(newest.id).state == "cancelled")
    wait_until(lambda: not processes_of(newest))


def test_a_detached_pipeline_is_followed_and_cancelled_by_its_id(prepared: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    started = mistudio(*command(prepared, store, "--detach"))
    run_id = started.stdout.strip()
    assert started.returncode == 0, started.stderr
    where = ("--store", str(store))
    wait_until(lambda: json.loads(mistudio("runs", "show", run_id, "--json", *where).stdout)["artifacts"])
    heading, run = mistudio("runs", "list", *where).stdout.splitlines()
    assert heading.split() == ["run", "started", "state", "what", "settings"]
    assert run.startswith(run_id)
    assert [run[heading.index(name) :].split()[0] for name in ("state", "what")] == ["running", "interpret"]
    cancelled = mistudio("runs", "cancel", run_id, *where)
    assert cancelled.stdout.strip() == f"Run {run_id}: cancelled"
    assert processes_of(LocalRunner(str(store)).get(run_id)) == []
    assert '"event":"started"' in mistudio("runs", "logs", run_id, "--json", *where).stdout
