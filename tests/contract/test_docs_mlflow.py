"""The page on MLflow: its commands exist with their options, its pictures are there and small, its names are the code's."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from mistudio.cli import app
from mistudio.runs.checkout import load_pipeline, parse_settings
from mistudio.tracking.views import AUTOENCODER, FACTS, KIND, PIPELINE, STEP, pages

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "mlflow.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^mistudio .*$", PAGE, re.MULTILINE)
_MOST_BYTES = 250_000


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_takes_what_it_is_given(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(context, words)
        assert command is not None, name
        context = command.make_context(name, list(words), parent=context)
        words = [*context.protected_args, *context.args] if isinstance(command, click.Group) else []
    if context.info_name == "run":
        parse_settings(load_pipeline(context.params["pipeline"]), context.params["settings"] or [])


def test_there_are_commands_of_all_that_the_page_is_about() -> None:
    assert {line.split()[1] for line in COMMANDS} == {"run", "mlflow", "models", "promote", "register"}


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert len(pictures) == 3
    assert all(0 < (DOCS / each).stat().st_size < _MOST_BYTES for each in pictures)


def test_names_of_tags_and_pages_are_those_of_the_code() -> None:
    for name in (*FACTS, AUTOENCODER, PIPELINE, STEP, KIND, *pages("1")):
        assert f"`{name}`" in PAGE, name
