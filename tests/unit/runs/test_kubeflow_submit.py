"""``mistudio submit`` against a server of Kubeflow's pipelines API: what is uploaded, checked, refused, started."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from mistudio.cli import app
from mistudio.errors import ClusterError, ConfigError, Conflict, InputError
from mistudio.runs import versions
from mistudio.runs.tasks import step_name
from tests.support.kfp_api import KfpServer

ROOT = Path(__file__).parents[3]
NAMESPACE = "mistudio-data"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def submit(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["submit", *arguments])


def submitted(*arguments: str) -> Result:
    done = submit(*arguments)
    assert done.exit_code == 0, done.exception
    return done


def test_a_run_is_started_of_a_version_named_by_the_commit(server: KfpServer) -> None:
    done = submitted("interpret", "--set", "k=16", "--set", "model=EleutherAI/pythia-70m", "--experiment", "nightly")
    (pipeline,) = server.state.pipelines.values()
    (version,) = server.state.versions.values()
    (experiment,) = server.state.experiments.values()
    run = server.run.model
    assert done.stdout.splitlines() == [run.run_id]
    assert f"{server.url}/#/runs/details/{run.run_id}" in done.stderr
    assert (pipeline.name, pipeline.namespace) == ("interpret", NAMESPACE)
    assert version.name == COMMIT[:12]
    assert COMMIT in version.description
    assert version.pipeline_spec["pipelineInfo"]["name"] == "interpret"
    assert (experiment.display_name, experiment.namespace) == ("nightly", NAMESPACE)
    assert run.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert run.runtime_config.parameters == {"k": 16, "model": "EleutherAI/pythia-70m"}


def test_what_is_there_is_used_again(server: KfpServer) -> None:
    submitted("interpret")
    submitted("interpret", "--name", "again", "--service-account", "mistudio-pipelines", "--store", "/data/store")
    assert len(server.state.pipelines) == len(server.state.versions) == len(server.state.experiments) == 1
    assert len(server.state.runs) == 2
    again = next(run.model for run in server.state.runs.values() if run.model.display_name == "again")
    assert again.service_account == "mistudio-pipelines"
    assert again.runtime_config.parameters == {"store": "/data/store"}


def test_another_pipeline_is_another_with_versions_of_its_own(server: KfpServer) -> None:
    submitted("interpret")
    submitted("sweep", "--set", "architectures=topk", "--set", "sparsities=8,16")
    assert sorted(each.name for each in server.state.pipelines.values()) == ["interpret", "sweep"]
    assert len(server.state.versions) == 2


@pytest.mark.parametrize("what", ["pipeline", "version", "experiment"])
def test_somebody_who_is_quicker_is_no_error(server: KfpServer, what: str) -> None:
    from kfp_server_api import V2beta1Experiment, V2beta1Pipeline

    def make_it_first(asked: str) -> None:
        if asked != what:
            return
        state = server.state
        if what == "pipeline":
            state.make_pipeline(V2beta1Pipeline(display_name="interpret"), NAMESPACE)
        elif what == "experiment":
            state.make_experiment(V2beta1Experiment(display_name="mistudio"), NAMESPACE)
        else:
            (pipeline_id,) = state.pipelines
            compiled = (ROOT / "pipelines" / "compiled" / "interpret.yaml").read_text(encoding="utf-8")
            state.make_version(pipeline_id, COMMIT[:12], "uploaded by another", compiled)

    server.before_create = make_it_first
    submitted("interpret")
    assert [len(each) for each in (server.state.pipelines, server.state.versions, server.state.experiments)] == [
        1,
        1,
        1,
    ]
    assert [asked.status for asked in server.asked].count(409) == 1


def test_a_version_of_that_name_with_another_content_is_refused(server: KfpServer) -> None:
    submitted("interpret")
    (version,) = server.state.versions.values()
    version.description = version.description.replace("sha256:", "sha256:0")
    done = submit("interpret")
    assert isinstance(done.exception, Conflict)
    assert "another name with --version" in str(done.exception)
    submitted("interpret", "--version", "release-7")
    assert sorted(each.name for each in server.state.versions.values()) == sorted([COMMIT[:12], "release-7"])


def test_kubeflows_cache_is_used_where_it_is_asked_for_and_that_is_another_version(server: KfpServer) -> None:
    submitted("interpret")
    submitted("interpret", "--no-cache")  # as the default placement has it
    submitted("interpret", "--cache")
    usual, cached = server.state.versions.values()
    assert cached.name.startswith(f"{usual.name}-")
    specs = [next(yaml.safe_load_all(text)) for text in server.state.documents.values()]
    for spec, expected in zip(specs, ({}, {"enableCache": True}), strict=True):
        graphs = [part["dag"]["tasks"] for part in (spec["root"], *spec["components"].values()) if "dag" in part]
        options = {name: task.get("cachingOptions", {}) for graph in graphs for name, task in graph.items()}
        assert {name: each for name, each in options.items() if step_name(name) and each != expected} == {}


def test_a_placement_is_another_version(server: KfpServer, tmp_path: Path) -> None:
    placement = tmp_path / "cluster.yaml"
    placement.write_text("steps: {train: {cpu_limit: '7'}}")
    submitted("interpret", "--placement", str(placement))
    (version,) = server.state.versions.values()
    assert version.name.startswith(f"{COMMIT[:12]}-")
    containers = version.pipeline_spec["deploymentSpec"]["executors"]
    assert containers["exec-train"]["container"]["resources"]["resourceCpuLimit"] == "7"
    assert isinstance(submit("interpret", "--placement", str(tmp_path / "none.yaml")).exception, InputError)


def test_only_uploading_starts_no_run(server: KfpServer) -> None:
    done = submitted("sweep", "--upload-only")
    (version,) = server.state.versions.values()
    assert done.stdout.strip() == f"Version {version.name}: {version.pipeline_version_id}"
    assert not server.state.runs


def test_a_recurring_run_starts_none_now_and_does_not_pile_up(server: KfpServer) -> None:
    done = submitted("interpret", "--cron", "0 0 2 * * *", "--name", "nightly", "--set", "k=16")
    (recurring,) = server.state.recurring_runs.values()
    assert done.stdout.strip() == recurring.recurring_run_id
    assert (recurring.display_name, recurring.trigger.cron_schedule.cron) == ("nightly", "0 0 2 * * *")
    assert (recurring.max_concurrency, recurring.no_catchup, recurring.mode) == ("1", True, "ENABLE")
    assert recurring.runtime_config.parameters == {"k": 16}
    assert not server.state.runs


def test_a_recurring_run_that_never_comes_is_refused(server: KfpServer) -> None:
    assert "has not 6 fields" in str(submit("interpret", "--cron", "0 2 * * *").exception)
    assert server.asked == []
    assert "not a supported format" in str(submit("interpret", "--cron", "a b c d e f").exception)
    assert "leave one out" in str(submit("interpret", "--cron", "0 0 2 * * *", "--wait").exception)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["k=16", "no_such=1"], "no parameter"),
        (["max_dead=5"], "max_dead: input should be less than or equal to 1"),
        (["explainer=foo"], "There is no explainer 'foo'"),
        (["model=./my-model"], "lies on this machine"),
        (["corpus=~/text.jsonl"], "lies on this machine"),
        (['judge_settings={"api_key": "sk-01234567890123456789"}'], "looks like a secret"),
        (["judge_url=http://user:secret-word@judge/v1"], "looks like a secret"),
    ],
)
def test_what_no_run_could_use_is_refused_before_anything_is_sent(
    server: KfpServer, settings: list[str], message: str
) -> None:
    done = submit("interpret", *(part for each in settings for part in ("--set", each)))
    assert isinstance(done.exception, InputError), done.output
    assert message in str(done.exception)
    assert server.asked == []


def test_a_file_of_this_machine_is_refused_wherever_it_lies(server: KfpServer, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").touch()
    done = submit("interpret", "--set", f"corpus={tmp_path / 'text.jsonl'}")
    assert isinstance(done.exception, ConfigError)
    assert "mistudio corpus add" in str(done.exception)


def test_what_this_machine_lacks_is_no_reason_to_refuse(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from mistudio.subject import devices

    monkeypatch.setattr(devices, "find_spec", lambda _name: None)  # bitsandbytes is not installed
    submitted("interpret", "--set", "quantization=nf4")
    assert server.run.model.runtime_config.parameters == {"quantization": "nf4"}
    assert isinstance(submit("interpret", "--set", "quantization=int3").exception, ConfigError)
    assert isinstance(submit("interpret", "--set", "quantization=nf4", "--set", "layer=-5").exception, ConfigError)


def test_a_summary_is_of_a_run_that_is_waited_for(server: KfpServer, tmp_path: Path) -> None:
    done = submit("interpret", "--summary", str(tmp_path / "x.json"))
    assert isinstance(done.exception, ConfigError)
    assert server.asked == []


def test_a_run_that_the_server_refuses_is_told_with_its_words(server: KfpServer) -> None:
    server.faults = []
    server.state.make_run = refuse  # type: ignore[method-assign]
    done = submit("interpret")
    assert isinstance(done.exception, ClusterError)
    assert "Kubeflow refuses this run (400): Invalid input error: the moon is in the wrong place" in str(done.exception)


def refuse(_asked: object) -> None:
    from tests.support.kfp_api.models import invalid

    raise invalid("the moon is in the wrong place")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "pipelines").mkdir(parents=True)
    (folder / "pipelines" / "interpret.py").write_text("one\n")
    (folder / "pyproject.toml").touch()
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_the_version_of_a_clean_checkout_is_its_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(versions, "checkout", lambda: repository)
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "notes.txt").write_text("no part of a pipeline")
    made = versions.version_name(b"compiled", committed=b"compiled")
    assert made.name == commit[:12]
    assert versions.version_name(b"placed", committed=b"compiled").name.startswith(f"{commit[:12]}-")
    assert made.is_that_of(made.description)
    assert not made.is_that_of(versions.version_name(b"other", committed=b"other").description)
    assert made.is_that_of("uploaded by hand")


def test_the_version_of_a_changed_checkout_says_so_and_is_another_for_each_content(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(versions, "checkout", lambda: repository)
    (repository / "pipelines" / "new.py").write_text("two\n")
    one, two = (versions.version_name(content, committed=content) for content in (b"one", b"two"))
    assert one.name.startswith(f"{git(repository, 'rev-parse', 'HEAD')[:12]}-dirty-")
    assert one.name != two.name
    assert "changes that were not committed" in one.description


def test_an_installed_package_has_its_own_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("MISTUDIO_GIT_COMMIT", raising=False)
    monkeypatch.setattr(versions, "checkout", lambda: tmp_path)
    assert versions.version_name(b"one", committed=b"one").name.startswith(f"{versions.__version__}-")
    monkeypatch.setenv("MISTUDIO_GIT_COMMIT", COMMIT)
    assert versions.version_name(b"one", committed=b"one").name == COMMIT[:12]


def test_the_answer_in_json_can_be_read_by_a_script(server: KfpServer) -> None:
    run_id = submitted("interpret", "--set", "k=16").stdout.strip()
    shown = CliRunner().invoke(app, ["status", run_id, "--json"], catch_exceptions=False)
    run = json.loads(shown.stdout)
    assert run["state"] == "pending"
    assert run["target"] == {"kind": "pipeline", "name": "interpret"}
    assert run["version"] == COMMIT[:12]
    assert run["settings"] == {"k": 16}
