"""``mistudio runs``: list, show, logs and cancel."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.errors import ConfigError, DamagedArtifact, InputError
from mistudio.events import Failed, Metrics, Progress, Started, append
from mistudio.runs import LocalRunner, Run, Target
from mistudio.runs.folder import Outcome, Request, new_folder


@pytest.fixture
def runner(tmp_path: Path) -> LocalRunner:
    return LocalRunner(str(tmp_path / "store"))


def recorded(runner: LocalRunner, outcome: Outcome | None) -> Run:
    """A run as it is left on disk."""
    folder = new_folder(runner.store)
    target = Target(kind="step", name="train")
    with folder.held():
        folder.write_request(Request(id=folder.id, target=target, settings={"k": 4}, store=runner.store))
    folder.log.write_text("a line of the log\n")
    append(folder.events, Started(step="train"))
    append(folder.events, Progress(step="train", what="Train", done=50, total=200, unit="tokens", note="FVU 0.5"))
    append(folder.events, Metrics(step="train", run="train", number=7, values={"fvu": 0.25}))
    append(folder.events, Failed(step="train", message="no such thing", exit_code=2))
    if outcome:
        folder.write_outcome(outcome)
    return runner.get(folder.id)


def output(*arguments: str, store: str) -> str:
    done = CliRunner().invoke(app, ["runs", *arguments, "--store", store], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_runs_are_listed_with_state_and_settings(runner: LocalRunner) -> None:
    failed = recorded(runner, Outcome(state="failed", exit_code=2, message="no such thing"))
    died = recorded(runner, None)
    heading, *lines = output("list", store=runner.store).splitlines()
    assert heading.split() == ["run", "started", "state", "what", "settings"]
    assert {line[heading.index("what") : heading.index("settings")].strip() for line in lines} == {"train"}
    assert {line.split()[0]: line.split()[3] for line in lines} == {failed.id: "failed", died.id: "died"}
    assert all(line.endswith("train      k=4") for line in lines)
    listed = json.loads(output("list", "--json", store=runner.store))
    assert {each["id"]: each["state"] for each in listed} == {failed.id: "failed", died.id: "died"}


def test_a_store_without_runs_says_so(runner: LocalRunner) -> None:
    assert output("list", store=runner.store) == "No runs in this store.\n"


def test_a_record_that_cannot_be_read_hides_no_other_run(runner: LocalRunner, caplog: pytest.LogCaptureFixture) -> None:
    whole, other = (recorded(runner, None) for _ in range(2))
    record = Path(other.log).parent / "request.json"
    record.write_text(record.read_text().replace('"version": 1', '"version": 2'))
    assert runner.list() == [whole]
    assert str(record) in caplog.text
    with pytest.raises(DamagedArtifact, match="was not written by this version"):
        runner.get(other.id)


def test_a_run_is_shown_with_why_it_failed(runner: LocalRunner) -> None:
    run = recorded(runner, Outcome(state="failed", exit_code=2, message="no such thing"))
    shown = output("show", run.id, store=runner.store)
    assert "no such thing" in shown
    assert run.log in shown
    assert Run.model_validate_json(output("show", run.id, "--json", store=runner.store)) == run


def test_a_run_that_goes_on_is_shown_with_how_far_it_is(runner: LocalRunner) -> None:
    run = recorded(runner, None)
    with (Path(run.log).parent / "process.json").open("w") as handle:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
        shown = output("show", run.id, store=runner.store)
    assert "running" in shown
    assert "25% FVU 0.5" in shown
    assert "at 7: fvu 0.25" in shown


def test_logs_are_what_was_printed_or_the_events(runner: LocalRunner) -> None:
    run = recorded(runner, None)
    assert output("logs", run.id, store=runner.store) == "a line of the log\n"
    events = [json.loads(line) for line in output("logs", run.id, "--json", store=runner.store).splitlines()]
    assert [event["event"] for event in events] == ["started", "progress", "metrics", "failed"]


def test_what_has_ended_is_not_cancelled(runner: LocalRunner) -> None:
    run = recorded(runner, Outcome(state="finished", exit_code=0))
    with pytest.raises(InputError, match="has finished already"):
        output("cancel", run.id, store=runner.store)


def test_a_summary_of_a_run_that_is_not_waited_for_is_refused(runner: LocalRunner, tmp_path: Path) -> None:
    command = ["run", "interpret", "--detach", "--summary", str(tmp_path / "x.json"), "--store", runner.store]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError)
    assert runner.list() == []


def test_a_summary_that_cannot_be_written_is_refused_before_anything_runs(runner: LocalRunner, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "interpret", "--summary", str(tmp_path), "--store", runner.store])
    assert "cannot be written" in str(done.exception)
    assert runner.list() == []


def test_a_record_that_is_half_written_can_be_looked_at(runner: LocalRunner) -> None:
    run = recorded(runner, None)
    Path(run.log).unlink()
    assert output("logs", run.id, store=runner.store) == ""
    (Path(run.log).parent / "outcome.json").mkdir()
    with pytest.raises(DamagedArtifact, match="was not written by this version"):
        runner.get(run.id)


@pytest.mark.parametrize("command", ["list", "show", "logs", "cancel"])
def test_every_command_shows_an_example(command: str) -> None:
    done = CliRunner().invoke(app, ["runs", command, "--help"])
    assert f"mistudio runs {command}" in done.stdout.partition("Example")[2]
