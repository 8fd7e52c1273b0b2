"""Runs on Kubeflow, followed, shown, listed, ended and gone on with, against a server of its API."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mistudio.artifacts import open_store
from mistudio.cli import app
from mistudio.cli.running import PipelineFailed
from mistudio.errors import ClusterError, GateFailed, InputError, NotFound
from mistudio.events import Failed, Finished, Message, Started
from mistudio.runs import KubeflowRunner, Target
from mistudio.runs.connection import connection
from mistudio.steps.records import RUN_ENV, keep
from tests.support.kfp_api import KfpServer
from tests.support.kfp_api.state import StoredRun

INTERPRET = Target(kind="pipeline", name="interpret")
SUMMARIES = {
    "train": {"tokens": 2000},
    "evaluate": {"l0": 4.0, "explained_variance": 0.75, "dead_fraction": 0.1, "ce_recovered": 0.5, "tokens": 900},
}


@pytest.fixture
def runner(server: KfpServer) -> KubeflowRunner:
    return KubeflowRunner(connection())


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def output(*arguments: str) -> str:
    done = command(*arguments)
    assert done.exit_code == 0, done.exception
    return done.stdout


def keep_as_pod(
    monkeypatch: pytest.MonkeyPatch, run: StoredRun, step: str, event: Finished | Failed | None = None
) -> None:
    """What a step in a pod of the run writes into the store before it ends."""
    summary = SUMMARIES.get(step, {})
    made = Finished(step=step, uri=f"{step}/0123", digest="d" * 64, found=False, seconds=2.5, summary=summary)
    with monkeypatch.context() as pod:
        pod.setenv(RUN_ENV, run.model.run_id)
        keep("", event or made)


def play(server: KfpServer, *scenes: Callable[[StoredRun], None]) -> None:
    """Have one thing happen to the run each time that somebody looks at it."""
    left: Iterator[Callable[[StoredRun], None]] = iter(scenes)

    def next_scene(run: StoredRun) -> None:
        scene = next(left, None)
        if scene:
            scene(run)

    server.before_get = next_scene


def test_a_run_that_is_waited_for_tells_what_its_steps_do_and_ends_with_their_figures(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def finish(run: StoredRun) -> None:
        for step in ("train", "evaluate"):
            keep_as_pod(monkeypatch, run, step)
            run.workflow.end(run.workflow.running(step), "SUCCEEDED")
        run.become("SUCCEEDED")

    play(
        server,
        lambda _run: None,
        lambda run: run.become("RUNNING"),
        lambda run: [run.workflow.begin(step) for step in ("train", "evaluate")],
        finish,
    )
    summary = tmp_path / "result.json"
    done = command("submit", "interpret", "--wait", "--summary", str(summary))
    assert done.exit_code == 0, done.exception
    lines = done.stderr.splitlines()
    assert [line.split()[:2] for line in lines if "0123" in line] == [["train", "made"], ["evaluate", "made"]]
    assert "explained variance" in done.stdout
    closing = json.loads(summary.read_text())
    assert (closing["tokens"], closing["explained_variance"], closing["l0"]) == (2000, 0.75, 4.0)
    assert closing["artifacts"]["train"]["uri"] == "train/0123"
    again = json.loads(output("result", server.run.model.run_id, "--json"))
    assert again == closing


def test_a_gate_that_failed_ends_the_command_with_its_exit_status_and_the_figures(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missed = "gate failed: L0 4, asked for at most 2. Everything that was made is in the store."

    def fall_short(run: StoredRun) -> None:
        keep_as_pod(monkeypatch, run, "evaluate")
        run.workflow.end(run.workflow.begin("evaluate"), "SUCCEEDED")
        failed = Failed(step="fail_gate", message=missed, exit_code=GateFailed.exit_code)
        keep_as_pod(monkeypatch, run, "fail_gate", failed)
        run.workflow.end(run.workflow.begin("fail-gate"), "FAILED", "main: Error (exit code 1)")
        run.become("FAILED")

    play(server, lambda _run: None, fall_short)
    summary = tmp_path / "result.json"
    done = command("submit", "interpret", "--wait", "--summary", str(summary))
    assert isinstance(done.exception, PipelineFailed)
    assert done.exception.exit_code == 3
    assert str(done.exception) == f"fail_gate: {missed}"
    assert "explained variance" in done.stdout
    assert json.loads(summary.read_text())["failed"] == f"fail_gate: {missed}"
    result = command("result", server.run.model.run_id)
    assert isinstance(result.exception, PipelineFailed)
    assert result.exception.exit_code == 3
    assert "0.7500" in result.stdout


def test_the_gate_is_known_by_its_task_where_the_store_cannot_be_read(
    server: KfpServer, runner: KubeflowRunner, tmp_path: Path
) -> None:
    run = runner.start(INTERPRET, {})
    server.run.workflow.end(server.run.workflow.begin("fail-gate"), "FAILED", "main: Error (exit code 1)")
    server.run.become("FAILED")
    assert not (tmp_path / "store").exists()
    ended = runner.get(run.id)
    assert ended.exit_code == 3
    assert ended.message == "fail_gate: main: Error (exit code 1)"


def test_a_pod_that_was_killed_is_told_and_what_an_earlier_try_said_is_not_what_counts(
    server: KfpServer, runner: KubeflowRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runner.start(INTERPRET, {})
    trained = server.run.workflow.begin("train")
    keep_as_pod(monkeypatch, server.run, "train", Failed(step="train", message="the disk is full", exit_code=2))
    second = server.run.workflow.try_again(trained)
    keep_as_pod(monkeypatch, server.run, "train")
    second.become("SUCCEEDED")
    trained.executor.become("SUCCEEDED")
    trained.task.become("SUCCEEDED")
    server.run.workflow.end(server.run.workflow.begin("capture"), "FAILED", "OOMKilled (exit code 137)")
    server.run.become("FAILED")
    events = list(runner.events(run.id, follow=True))
    assert [(event.step, event.message) for event in events if isinstance(event, Failed)] == [
        ("train", "the disk is full"),
        ("capture", "OOMKilled (exit code 137)"),
    ]
    ended = runner.get(run.id)
    assert (ended.exit_code, ended.message) == (1, "capture: OOMKilled (exit code 137)")
    assert [made.step for made in ended.artifacts] == ["train"]
    (train, capture) = runner.steps(run.id)
    assert [len(each.pods) for each in (train, capture)] == [2, 1]


def test_events_are_told_once_and_in_order_while_the_run_goes_on(
    server: KfpServer, runner: KubeflowRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runner.start(INTERPRET, {})

    def two_parts(run: StoredRun) -> None:
        run.become("RUNNING")
        run.workflow.take_from_cache("ingest")
        for _ in range(2):
            run.workflow.begin("find-part")

    def end_of_one(run: StoredRun) -> None:
        keep_as_pod(monkeypatch, run, "find_part")
        run.workflow.end(run.workflow.running("find-part"), "SUCCEEDED")

    def end_of_all(run: StoredRun) -> None:
        end_of_one(run)
        run.workflow.end(run.workflow.begin("gate"), "SUCCEEDED")
        run.become("SUCCEEDED")

    play(server, two_parts, lambda _run: None, end_of_one, lambda _run: None, end_of_all)
    told = [(type(event), event.step) for event in runner.events(run.id, follow=True)]
    assert told == [
        (Started, "ingest"),
        (Started, "find_part"),
        (Started, "find_part"),
        (Message, "ingest"),
        (Finished, "find_part"),
        (Started, "gate"),
        (Finished, "find_part"),
        (Message, "gate"),
    ]


def test_status_shows_each_step_and_what_waits(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {"k": 16})
    server.run.become("RUNNING")
    server.run.workflow.take_from_cache("ingest")
    server.run.workflow.begin("capture")
    server.run.workflow.wait_for_inputs("train")
    shown = output("status", run.id)
    assert "taken from Kubeflow's cache" in shown
    assert "setting: k" in shown
    assert f"Dashboard: {server.url}/#/runs/details/{run.id}" in shown
    assert [(each.step, each.state, each.from_cache) for each in runner.steps(run.id)] == [
        ("ingest", "finished", True),
        ("capture", "running", False),
        ("train", "pending", False),
    ]
    assert "running, for 0 s" in shown


def test_what_the_cache_gave_is_found_by_what_was_made_of_it(
    server: KfpServer, runner: KubeflowRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mistudio.artifacts import Draft, Recipe, Summary, produce

    store = open_store(str(tmp_path / "store"))

    def build(draft: Draft) -> Summary:
        draft.write("text.txt", b"text")
        return {"documents": 3}

    corpus = produce(store, Recipe(kind="corpus", config={}), "ingest", build).artifact
    acts = produce(store, Recipe(kind="activations", config={}, inputs={"corpus": corpus.ref}), "capture", build)
    run = runner.start(INTERPRET, {})
    server.run.workflow.take_from_cache("ingest")
    server.run.workflow.end(server.run.workflow.begin("capture"), "SUCCEEDED")
    captured = Finished(
        step="capture", uri=acts.artifact.uri, digest=acts.artifact.digest, found=False, seconds=1.0, summary={}
    )
    keep_as_pod(monkeypatch, server.run, "capture", captured)
    server.run.become("SUCCEEDED")
    closing = json.loads(output("result", run.id, "--json"))
    assert closing["artifacts"] == {
        "ingest": {"uri": corpus.uri, "digest": corpus.digest, "found": True},
        "capture": {"uri": captured.uri, "digest": captured.digest, "found": False},
    }


def test_the_store_of_a_run_is_the_one_that_it_was_given(
    server: KfpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = str(tmp_path / "other")
    run_id = output("submit", "interpret", "--store", other).strip()
    with monkeypatch.context() as pod:
        pod.setenv(RUN_ENV, run_id)
        keep(other, Finished(step="train", uri="sae/1", digest="d" * 64, found=True, seconds=1, summary={"tokens": 7}))
    server.run.become("SUCCEEDED")
    assert json.loads(output("result", run_id, "--json"))["tokens"] == 7
    shown = json.loads(output("status", run_id, "--json"))
    assert (shown["store"], shown["settings"]) == (other, {})


def test_logs_of_one_step_or_all(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {})
    first, second = (server.run.workflow.begin(task) for task in ("train", "find-part"))
    server.run.logs[first.executor.pod] = b"step 1: FVU 0.5\n" * 10_000
    printed = output("logs", run.id, "train")
    assert printed.count("FVU 0.5") == 10_000
    assert printed.startswith(f"==> train ({first.executor.pod}) <==\n")
    everything = output("logs", run.id)
    assert f"==> find_part ({second.executor.pod}) <==\nIts log cannot be read" in everything
    with pytest.raises(ClusterError, match="not found"):
        list(runner.log(run.id, "find-part"))
    with pytest.raises(NotFound, match="has no step 'grid'; it has train, find_part"):
        list(runner.log(run.id, "grid"))
    with pytest.raises(InputError, match="not followed"):
        list(runner.log(run.id, follow=True))
    server.run.names_pods = False
    with pytest.raises(NotFound, match="kubectl logs --selector pipeline/runid="):
        list(runner.log(run.id))


def test_events_are_printed_as_they_are_for_runs_of_this_machine(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {})
    server.run.workflow.begin("ingest")
    (line,) = output("logs", run.id, "--json").splitlines()
    assert json.loads(line)["event"] == "started"


def test_a_run_is_cancelled_once(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {})
    server.run.become("RUNNING")
    assert output("cancel", run.id) == f"Run {run.id}: running\n"
    assert server.run.model.state == "CANCELING"
    server.run.become("CANCELED")
    ended = runner.get(run.id)
    assert (ended.state, ended.exit_code) == ("cancelled", 143)
    with pytest.raises(InputError, match="was cancelled already"):
        runner.cancel(run.id)


def test_only_what_did_not_end_well_is_retried(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {})
    with pytest.raises(InputError, match="it is pending"):
        runner.retry(run.id)
    server.run.become("FAILED", "a node is gone")
    assert runner.get(run.id).message == "a node is gone"
    assert output("retry", run.id) == f"Run {run.id}: running\n"
    server.run.become("SUCCEEDED")
    with pytest.raises(InputError, match="it has finished"):
        runner.retry(run.id)


def test_a_result_is_of_a_run_that_has_ended(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {})
    done = command("result", run.id)
    assert isinstance(done.exception, InputError)
    server.run.become("SUCCEEDED")
    assert "None of its steps has left anything" in command("result", run.id).stderr


def test_all_runs_are_listed_over_several_pages_the_newest_first(server: KfpServer, runner: KubeflowRunner) -> None:
    server.most = 2
    ids = [runner.start(INTERPRET, {"seed": seed}).id for seed in range(5)]
    server.state.runs[ids[0]].become("FAILED")
    heading, *lines = output("runs", "list", "--on", "kubeflow").splitlines()
    assert heading.split() == ["run", "started", "state", "what", "settings"]
    assert [line.split()[0] for line in lines] == ids[::-1]
    assert lines[-1].endswith("failed     interpret  seed=0")
    listed = json.loads(output("runs", "list", "--on", "kubeflow", "--json"))
    assert [each["target"]["name"] for each in listed] == ["interpret"] * 5


def test_no_runs_are_none(server: KfpServer) -> None:
    assert output("runs", "list", "--on", "kubeflow") == "No runs on Kubeflow.\n"


def test_ids_that_are_none_of_kubeflows_are_not_sent(server: KfpServer, runner: KubeflowRunner) -> None:
    with pytest.raises(NotFound, match="is no id of a run"):
        runner.get("../pipelines")
    with pytest.raises(NotFound, match="no such run"):
        runner.get("00000000-0000-4000-8000-000000000000")
    assert [asked.path for asked in server.asked] == ["/apis/v2beta1/runs/00000000-0000-4000-8000-000000000000"]


def test_a_run_of_a_pipeline_that_was_deleted_keeps_its_own_name(server: KfpServer, runner: KubeflowRunner) -> None:
    run = runner.start(INTERPRET, {})
    server.state.pipelines.clear()
    server.state.versions.clear()
    shown = KubeflowRunner(connection()).get(run.id)
    assert shown.target.name == run.name
    assert shown.version == ""


def test_a_single_step_is_no_pipeline(runner: KubeflowRunner) -> None:
    with pytest.raises(InputError, match="Kubeflow runs pipelines"):
        runner.start(Target(kind="step", name="train"), {})
