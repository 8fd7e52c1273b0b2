"""The page on MLflow: its commands exist with their options, its pictures are there and small, its names are true."""

import re
import shlex
from pathlib import Path
from typing import Any

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
    command: Any = typer.main.get_command(app)
    context = command.make_context("mistudio", shlex.split(line)[1:])
    while hasattr(command, "commands") and (rest := [*context._protected_args, *context.args]):
        name, command, words = command.resolve_command(context, rest)
        context = command.make_context(name, words, parent=context)
    if context.info_name == "run":
        parse_settings(load_pipeline(context.params["pipeline"]), context.params["settings"] or [])


@pytest.mark.parametrize(
    "line",
    [
        "mistudio promote stories --versions 1",
        "mistudio mlflow synch",
        "mistudio run interpret --set registeras=x",
        "mistudio models a b",
    ],
)
def test_a_command_that_is_none_would_be_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|no parameter|unexpected"):
        test_each_command_takes_what_it_is_given(line)


def test_there_are_commands_of_all_that_the_page_is_about() -> None:
    assert {line.split()[1] for line in COMMANDS} == {"run", "mlflow", "models", "promote", "register"}


def test_the_pictures_are_there_and_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert len(pictures) == 3
    assert all(0 < (DOCS / each).stat().st_size < _MOST_BYTES for each in pictures)


def test_names_of_tags_and_pages_are_those_of_the_code() -> None:
    for name in (*FACTS, AUTOENCODER, PIPELINE, STEP, KIND, *pages("1")):
        assert f"`{name}`" in PAGE, name
