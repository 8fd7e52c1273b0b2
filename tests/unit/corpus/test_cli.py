import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mistudio.cli.corpus import register
from mistudio.errors import NotFound


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


def test_corpora_are_added_listed_and_removed(tmp_path: Path, app: typer.Typer) -> None:
    path = tmp_path / "films.csv"
    path.write_text("title,review\nX,good film\n")
    at = ["--store", str(tmp_path / "store")]
    add = ["corpus", "add", str(path), "--name", "reviews", "--text-column", "review", *at]
    run = CliRunner().invoke
    assert "Added corpus reviews: 1 documents, 9 bytes of text" in run(app, add).output
    assert "Found corpus reviews" in run(app, add).output
    table = run(app, ["corpus", "list", *at], env={"COLUMNS": "120"}).output
    assert "reviews" in table
    assert "python-docs" in table
    (row,) = json.loads(run(app, ["corpus", "list", "--json", *at]).output)
    assert (row["name"], row["uri"], row["documents"], row["text_bytes"]) == ("reviews", "uploads/reviews", 1, 9)
    assert run(app, ["corpus", "remove", "reviews", *at]).output == "Removed corpus reviews.\n"
    assert json.loads(run(app, ["corpus", "list", "--json", *at]).output) == []


def test_mistakes_are_left_to_the_application_to_print(tmp_path: Path, app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["corpus", "remove", "nope", "--store", str(tmp_path)])
    assert isinstance(result.exception, NotFound)


def test_help_shows_examples(app: typer.Typer) -> None:
    for command in ("add", "list", "remove"):
        assert f"mistudio corpus {command} " in CliRunner().invoke(app, ["corpus", command, "--help"]).output
