"""Runs on this machine: started, followed, listed, cancelled; and what is left when they are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from mistudio import steps
from mistudio.artifacts import open_store
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.events import Event, Finished, Metrics, Progress, Started
from mistudio.runs import LocalRunner, Run, Target
from mistudio.runs.folder import RunFolder, runs_folder
from mistudio.runs.processes import members
from tests.support.tiny import tiny_corpus, tiny_llama

TRAIN = Target(kind="step", name="train")
SHORT = {"width": 64, "k": 4, "tokens": 2000, "device": "cpu"}
# Long enough that it is cut somewhere in the middle.
LONG = {**SHORT, "tokens": 200_000, "checkpoint_every_steps": 5}
PATIENCE_S = 300


@pytest.fixture(autouse=True)
def _untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with captured activations."""
    folder = tmp_path_factory.mktemp("runs")
    store = open_store(str(folder / "store"))
    corpus = tiny_corpus(store, tiny_llama(folder / "model"), folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTUDIO_TRACKING", "off")
        made = steps.run_step(
            "capture", corpus=corpus.uri, model=str(folder / "model"), hook="mlp_out.0", device="cpu", store=store.url
        )
    return folder / "store", made.artifact.uri


@pytest.fixture
def activations(captured: tuple[Path, str], tmp_path: Path) -> tuple[str, str]:
    """A store of its own with captured activations: its address, and theirs."""
    shutil.copytree(captured[0], tmp_path / "store", dirs_exist_ok=True)
    return str(tmp_path / "store"), captured[1]


@pytest.fixture
def runner(activations: tuple[str, str]) -> Iterator[LocalRunner]:
    runner = LocalRunner(activations[0])
    yield runner
    for run in runner.list():
        if run.state in ("running", "died"):
            runner.cancel(run.id)


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def ended(runner: LocalRunner, run: Run) -> Run:
    wait_until(lambda: runner.get(run.id).state != "running")
    return runner.get(run.id)


def has_checkpoint(runner: LocalRunner) -> bool:
    return bool(list(Path(runner.store).glob("sae/*/work/checkpoint-*")))


def left_of(runner: LocalRunner, run: Run) -> list[psutil.Process]:
    group = runner.get(run.id).process_group
    assert group is not None
    return list(members(group, runs_folder(runner.store) / run.id / "events.jsonl"))


class Short(NamedTuple):
    """A short training that ran to its end."""

    runner: LocalRunner
    activations: str
    started: Run
    events: list[Event]
    environment: tuple[dict[str, str], dict[str, str]]  # of this process, before and after

    @property
    def run(self) -> Run:
        """The run as it stands."""
        return self.runner.get(self.started.id)


@pytest.fixture(scope="module")
def short(captured: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Short:
    runner = LocalRunner(str(shutil.copytree(captured[0], tmp_path_factory.mktemp("short") / "store")))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MISTUDIO_TRACKING": "off", "OMP_NUM_THREADS": "1", "SOME_TOKEN": "a-long-secret"}.items():
            patch.setenv(name, value)
        before = dict(os.environ)
        started = runner.start(TRAIN, {"activations": captured[1], **SHORT})
        events = list(runner.events(started.id, follow=True))
        ended(runner, started)
        return Short(runner, captured[1], started, events, (before, dict(os.environ)))


def test_a_step_runs_in_a_process_of_its_own_and_is_recorded(short: Short) -> None:
    assert (short.started.state, short.started.target, short.started.settings["tokens"]) == ("running", TRAIN, 2000)
    done, events = short.run, short.events
    assert (done.state, done.exit_code, done.message) == ("finished", 0, "")
    assert done.ended_at is not None
    assert done.ended_at >= done.created_at
    (made,) = done.artifacts
    assert (Path(short.runner.store) / made.uri / "manifest.json").is_file()
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert events[-1].digest == made.digest
    assert {event.step for event in events} == {"train"}
    assert {event.pid for event in events} == {done.process_group} != {os.getpid()}
    curve = [event for event in events if isinstance(event, Metrics) and event.number]
    assert curve[-1].values.keys() >= {"fvu", "l0", "dead_fraction"}
    assert any(isinstance(event, Progress) and event.finished for event in events)
    assert short.runner.list() == [done]
    assert short.environment[0] == short.environment[1]
    folder = runs_folder(short.runner.store) / done.id
    assert not [path for path in folder.iterdir() if b"a-long-secret" in path.read_bytes()]


def test_the_same_step_in_this_process_publishes_the_same(short: Short) -> None:
    again = steps.run_step("train", activations=short.activations, **SHORT, store=short.runner.store)
    assert again.found
    assert again.artifact.digest == short.run.artifacts[0].digest


def test_a_run_that_fails_has_the_message_of_its_step(runner: LocalRunner, activations: tuple[str, str]) -> None:
    run = ended(runner, runner.start(TRAIN, {"activations": activations[1], **SHORT, "hook": "mlp_out.1"}))
    assert (run.state, run.exit_code) == ("failed", 2)
    assert "mlp_out.1" in run.message


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("nothing", {}, "There is no step 'nothing'"),
        ("train", {"activations": "activations/1", "colour": "red"}, "colour"),
        ("train", {"activations": "activations/1", "tokens": 0}, "tokens"),
        ("train", {"activations": "activations/1", "store": "elsewhere"}, "store is the runner's"),
        ("train", {}, "train needs activations"),
        ("train", {"train_settings": '{"api_key": "x"}'}, "train_settings.api_key looks like a secret"),
    ],
)
def test_what_cannot_run_or_must_not_be_written_is_refused(
    runner: LocalRunner, target: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        runner.start(Target(kind="step", name=target), settings)
    assert runner.list() == []


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nothing", {}, "There is no pipeline 'nothing'"),
        ("interpret", {"colour": "red"}, "'colour' is no parameter of this pipeline"),
        ("interpret", {"k": "abc"}, "k takes a whole number, not 'abc'"),
        ("interpret", {"corpus": object()}, "corpus takes a text"),
    ],
)
def test_a_pipeline_that_cannot_run_is_refused(
    runner: LocalRunner, name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        runner.start(Target(kind="pipeline", name=name), settings)
    assert runner.list() == []


def test_settings_that_no_record_can_hold_leave_no_run(runner: LocalRunner) -> None:
    with pytest.raises(ConfigError, match="k"):
        runner.start(TRAIN, {"activations": "activations/1", "k": np.int64(4)})  # type: ignore[dict-item]
    assert runner.list() == []


def test_looking_at_runs_makes_no_store(tmp_path: Path) -> None:
    assert LocalRunner(str(tmp_path / "none")).list() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.proof
def test_a_training_that_is_cancelled_ends_when_run_again_as_if_it_had_not_been(
    runner: LocalRunner, activations: tuple[str, str], tmp_path: Path
) -> None:
    undisturbed = LocalRunner(str(shutil.copytree(activations[0], tmp_path / "other")))
    run = runner.start(TRAIN, {"activations": activations[1], **LONG})
    wait_until(lambda: has_checkpoint(runner))
    cancelled = runner.cancel(run.id)
    assert (cancelled.state, cancelled.exit_code) == ("cancelled", 128 + signal.SIGTERM)
    assert left_of(runner, run) == []
    assert has_checkpoint(runner)
    assert not list(Path(runner.store).glob("sae/*/manifest.json"))
    assert not list(Path(runner.store).glob(".mistudio/staging/*"))

    again = ended(runner, runner.retry(run.id))
    assert again.id != run.id
    whole = ended(undisturbed, undisturbed.start(TRAIN, {"activations": activations[1], **LONG}))
    assert again.state == whole.state == "finished"
    assert again.artifacts == whole.artifacts
    assert [event.uri for event in runner.finished(again.id)] == [made.uri for made in again.artifacts]
    with pytest.raises(InputError, match="it has finished"):
        runner.retry(again.id)
    with pytest.raises(InputError, match="one log for all its steps"):
        list(runner.log(again.id, "train"))


def test_a_run_that_is_killed_has_died_and_does_not_run_for_ever(
    runner: LocalRunner, activations: tuple[str, str]
) -> None:
    run = runner.start(TRAIN, {"activations": activations[1], **LONG})
    wait_until(lambda: runner.get(run.id).process_group)
    assert runner.get(run.id).state == "running"
    os.kill(runner.get(run.id).process_group or 0, signal.SIGKILL)
    died = ended(runner, run)
    assert died.state == "died"
    assert "was it killed?" in died.message
    assert left_of(runner, run) == []
    assert LocalRunner(runner.store).list() == [died]


def test_another_process_with_the_number_of_a_dead_run_is_not_taken_for_it(short: Short, tmp_path: Path) -> None:
    runner, run = LocalRunner(str(shutil.copytree(short.runner.store, tmp_path / "store"))), short.started
    folder = RunFolder(runs_folder(runner.store) / run.id)
    wait_until(lambda: not folder.is_held())
    (folder.path / "outcome.json").unlink()
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as other:
        (folder.path / "process.json").write_text(str(other.pid))
        assert runner.get(run.id).state == "died"
        assert runner.cancel(run.id).state == "died"
        assert other.poll() is None
        other.kill()


def test_a_run_that_has_ended_cannot_be_cancelled(short: Short) -> None:
    with pytest.raises(InputError, match="has finished already"):
        short.runner.cancel(short.started.id)


@pytest.mark.parametrize("run_id", ["20260131-235959-0a1b2c", "../../store", ""])
def test_a_run_that_is_not_there_is_named(runner: LocalRunner, run_id: str) -> None:
    for ask in (runner.get, runner.cancel, lambda run_id: list(runner.events(run_id))):
        with pytest.raises(NotFound):
            ask(run_id)


STARTER = """
import sys
from mistudio.runs import LocalRunner, Target
import json
runner = LocalRunner(sys.argv[1], attached=sys.argv[2] == "attached")
print(runner.start(Target(kind="step", name="train"), json.loads(sys.argv[3])).id, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("how", "state"), [("attached", "cancelled"), ("free", "finished")])
def test_a_run_outlives_its_starter_unless_it_is_tied_to_it(
    runner: LocalRunner, activations: tuple[str, str], how: str, state: str
) -> None:
    settings = {"activations": activations[1], **(LONG if how == "attached" else SHORT)}
    command = [sys.executable, "-c", STARTER, runner.store, how, json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        run_id = starter.stdout.readline().strip()
        wait_until(lambda: any(isinstance(event, Progress) for event in runner.events(run_id)))
        starter.kill()
    run = ended(runner, runner.get(run_id))
    assert run.state == state
    wait_until(lambda: not left_of(runner, run))


def test_files_in_the_working_folder_are_no_code(
    runner: LocalRunner, activations: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    for name in ("mistudio", "torch", "json", "psutil"):
        (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('code of the working folder ran')\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", f"{os.environ.get('PYTHONPATH', '')}:")
    run = ended(runner, runner.start(TRAIN, {"activations": activations[1], **SHORT}))
    assert run.state == "finished", run.message
