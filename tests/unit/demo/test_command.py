import functools
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mistudio import demo
from mistudio.artifacts import open_store
from mistudio.cli import app as whole_app
from mistudio.cli.demo import register
from mistudio.demo import DemoConfig, resolve_model
from mistudio.errors import ConfigError, CorpusError
from tests.unit.demo.conftest import SMALL


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture
def run(store_url: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs the command on the whole built-in corpus, with the defaults of a much smaller model."""
    small = functools.partial(DemoConfig, **{**SMALL.model_dump(exclude={"tokens"}), "evaluated_bytes": 1_000})
    monkeypatch.setattr(demo, "DemoConfig", lambda **given: small(**{"tokens": 5_000, **given}))
    return CliRunner(env={"MISTUDIO_STORE": store_url, "COLUMNS": "200"})


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


def test_the_command_trains_then_finds_and_demo_names_what_it_made(
    run: CliRunner, app: typer.Typer, store_url: str
) -> None:
    first = run.invoke(app, ["demo", "--model-only", "--json"], catch_exceptions=False)
    row = json.loads(first.stdout)
    assert not row["found"]
    assert row["tokens"] >= 5_000
    second = run.invoke(app, ["demo", "--model-only"], catch_exceptions=False)
    assert row["uri"] in second.stdout
    assert str(row["bits_per_byte"]) in second.stdout
    assert "found it" in second.stdout
    assert second.stdout.rstrip().endswith("Next: mistudio run interpret")
    assert resolve_model("demo", None, open_store(store_url)).digest == row["digest"]


def test_a_budget_that_is_not_a_number_is_refused(run: CliRunner, app: typer.Typer) -> None:
    done = run.invoke(app, ["demo", "--tokens", "many"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == "tokens takes a value of type int, not 'many'."


def test_a_budget_that_is_too_small_is_refused_by_name(app: typer.Typer, store_url: str) -> None:
    with pytest.raises(ConfigError, match="tokens"):
        CliRunner().invoke(app, ["demo", "--tokens", "10", "--store", store_url], catch_exceptions=False)


def test_help_names_the_budget_that_the_recipe_has() -> None:
    shown = CliRunner().invoke(whole_app, ["demo", "--help"], env={"COLUMNS": "120", "TERM": "dumb"}).output
    assert f"[default: {DemoConfig().tokens:_}]" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--subject", "smollm2", "--tokens", "5000"], "--tokens and --seed are for the training of the demo model"),
        (["--json"], "--json is for --model-only"),
        (["--model-only", "--corpus", "text.jsonl"], "--corpus is what the main job reads"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    run: CliRunner, app: typer.Typer, options: list[str], message: str
) -> None:
    done = run.invoke(app, ["demo", *options])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_the_main_job_follows_on_the_model_that_was_made(
    run: CliRunner, app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr("mistudio.cli.pipelines.run_and_show", lambda *given: started.append(given))
    corpus = "python-docs: prose"
    done = run.invoke(app, ["demo", "--corpus", corpus], catch_exceptions=False)
    assert started == [("interpret", {"corpus": corpus}, "", None)]
    assert done.stdout.rstrip().endswith(f"Now: mistudio run interpret --set 'corpus={corpus}'")
    run.invoke(app, ["demo", "--seed", "1"], catch_exceptions=False)
    (_, settings, *_), made = started[1], run.invoke(app, ["demo", "--seed", "1", "--model-only", "--json"])
    assert settings == {"model": json.loads(made.stdout)["uri"]}


def test_a_corpus_that_is_not_there_is_refused_before_a_model_is_made(app: typer.Typer, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(CorpusError, match="nowhere"):
        CliRunner().invoke(app, ["demo", "--corpus", "./nowhere.txt", "--store", str(store)], catch_exceptions=False)
    assert not list((store / "subject").glob("*"))
