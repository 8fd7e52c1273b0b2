"""A component starts the processes that are to train together, and ends as they do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from kfp import dsl

from components.images import BATCH_IMAGE
from components.train.component import train
from mistudio.artifacts import Artifact, open_artifact, open_store
from mistudio.errors import ConfigError, NotFound
from mistudio.events import EVENTS_ENV, EventReader, Failed, Finished, Metrics, Progress, Started
from mistudio.steps import run_step, run_together
from mistudio.steps.together import NUM_ENV, ProcessFailed, wanted_processes
from mistudio.train.config import TRAINING_NAME
from pipelines import _placing
from pipelines._kfp import run_here
from pipelines.placement import load_placement
from tests.support.synthetic import plant, publish_activations

ROWS, BATCH = 161, 32  # the last batch of an epoch has one row, which two processes cannot share
SETTINGS: dict[str, Any] = {"width": 64, "k": 3, "tokens": 4 * ROWS}
OTHERS = json.dumps({"batch_size": BATCH, "buffer_rows": 64, "patience": 0})
_PATIENCE_S = 300


@pytest.fixture
def activations(tmp_path: Path) -> Artifact:
    return publish_activations(open_store(str(tmp_path / "store")), plant(ROWS, width=12).acts_ND)


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(EVENTS_ENV, str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    return tmp_path / "events.jsonl"


def history(sae: Artifact) -> list[dict[str, float]]:
    return json.loads(sae.file(TRAINING_NAME).read_bytes())


def alone(activations: Artifact, folder: Path) -> Artifact:
    """What one process makes of the same rows, in another store."""
    apart = publish_activations(open_store(str(folder)), plant(ROWS, width=12).acts_ND)
    given = {"activations": apart.uri, **SETTINGS, "train_settings": OTHERS, "store": apart.store.url}
    return run_step("train", **given).artifact


def test_two_processes_of_torchrun_end_with_uneven_data_as_one_does(
    activations: Artifact, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"activations": activations.uri, **SETTINGS, "train_settings": OTHERS, "store": activations.store.url}
    monkeypatch.setenv(NUM_ENV, "2")
    done = run_together("train", **given)
    assert not done.found
    told = EventReader(events).read()
    assert [type(each) for each in told if isinstance(each, Started | Finished | Failed)] == [Started, Finished]
    assert any(isinstance(each, Metrics) for each in told)
    one, other = history(alone(activations, tmp_path / "apart")), history(done.artifact)
    assert [point["tokens"] for point in other] == [point["tokens"] for point in one]
    assert [point["loss"] for point in other] == pytest.approx([point["loss"] for point in one], rel=1e-3)


@pytest.mark.proof
def test_what_one_process_is_refused_is_said_once(
    activations: Artifact, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NUM_ENV, "2")
    with pytest.raises(ProcessFailed, match="width 65 cannot be shared by 2 processes") as refused:
        run_together(
            "train",
            activations=activations.uri,
            width=65,
            k=3,
            tokens=ROWS,
            parallel="latents",
            store=activations.store.url,
        )
    assert refused.value.exit_code == ConfigError.exit_code
    failures = [each.message for each in EventReader(events).read() if isinstance(each, Failed)]
    assert len(set(failures)) == 1


@pytest.mark.proof
def test_a_killed_process_ends_the_others_and_the_component_says_so(activations: Artifact, events: Path) -> None:
    given = {"activations": activations.uri, **SETTINGS, "tokens": 10_000_000, "store": activations.store.url}
    given["train_settings"] = json.dumps({"batch_size": BATCH, "buffer_rows": 64, "patience": 0, "max_epochs": 1e6})
    code = f"from mistudio.steps import run_together\nrun_together('train', **{given!r})"
    environment = {**os.environ, NUM_ENV: "2"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_for_training(events)
            workers = processes_below(process.pid)
            assert sorted(workers) == ["0", "1"]
            workers["1"].kill()
            _, said = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 1  # an exception
    assert "ProcessFailed: One of the 2 processes of train ended without a word" in said
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers.values())


@pytest.mark.proof
def test_a_component_that_is_told_to_end_takes_its_processes_along(activations: Artifact, events: Path) -> None:
    given = {"activations": activations.uri, **SETTINGS, "tokens": 10_000_000, "store": activations.store.url}
    given["train_settings"] = json.dumps({"batch_size": BATCH, "buffer_rows": 64, "patience": 0, "max_epochs": 1e6})
    code = f"from mistudio.steps import run_together\nrun_together('train', **{given!r})"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, NUM_ENV: "2"}) as process:
        try:
            wait_for_training(events)
            workers = processes_below(process.pid)
            process.terminate()
            assert process.wait(_PATIENCE_S) == 143
        finally:
            process.kill()
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers.values())


def wait_for_training(events: Path) -> None:
    reader, deadline = EventReader(events), time.monotonic() + _PATIENCE_S
    while not any(isinstance(each, Progress) and each.done for each in reader.read()):
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.1)


def processes_below(pid: int) -> dict[str, psutil.Process]:
    """The processes that train, by their number."""
    below = psutil.Process(pid).children(recursive=True)
    workers = (each for each in below if "mistudio.steps.one_of_many" in each.cmdline()[:5])  # not torchrun
    return {each.environ()["RANK"]: each for each in workers}


@pytest.mark.proof
def test_a_placed_component_trains_in_two_processes_in_the_local_runner(
    activations: Artifact, events: Path, tmp_path: Path
) -> None:
    placement = load_placement(scratch_folder=str(tmp_path / "scratch"), steps={"train": {"processes": 2}})

    @dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
    def given(artifact: dsl.Output[dsl.Dataset], manifest: str) -> None:
        with open(artifact.path, "w") as file:
            file.write(manifest)

    @dsl.pipeline(name="placed")
    def placed() -> None:
        made = given(manifest=activations.manifest.to_json().decode())
        train(activations=made.outputs["artifact"], **SETTINGS, train_settings=OTHERS, store=activations.store.url)
        _placing.place_tasks(placement, "placed")

    with pytest.warns(UserWarning, match="no effect in the current local runner"):
        run_here(placed, {}, tmp_path / "kfp")
    (finished,) = (each for each in EventReader(events).read() if isinstance(each, Finished))
    one = history(alone(activations, tmp_path / "apart"))
    other = history(open_artifact(activations.store, finished.uri))
    assert [point["loss"] for point in other] == pytest.approx([point["loss"] for point in one], rel=1e-3)


@pytest.mark.parametrize("asked", ["0", "two", "-1", "65", "1.5", "²"])
def test_what_is_no_number_of_processes_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUM_ENV, asked)
    with pytest.raises(ConfigError, match=f"{NUM_ENV} is .*{asked}.*: use a number of processes from 1 to 64"):
        wanted_processes()


@pytest.mark.parametrize(("asked", "count"), [("", 1), ("1", 1), ("4", 4)])
def test_as_many_processes_are_started_as_asked_for(asked: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUM_ENV, asked)
    assert wanted_processes() == count


@pytest.mark.parametrize("gpus", [0, 1, 3])
def test_auto_is_a_process_for_each_gpu(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUM_ENV, "auto")
    monkeypatch.setattr("mistudio.subject.devices.list_gpus", lambda: [None] * gpus)
    assert wanted_processes() == max(gpus, 1)


def test_one_process_runs_the_step_itself(activations: Artifact, events: Path) -> None:
    with pytest.raises(NotFound):
        run_together("train", activations="activations/0123456789abcdef", store=activations.store.url)
    assert {each.pid for each in EventReader(events).read()} == {os.getpid()}
