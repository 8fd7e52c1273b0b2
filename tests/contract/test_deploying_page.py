"""What the page on deploying says is there: commands with their options, settings of pipelines, rights."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from mistudio.cli import app
from mistudio.runs.checkout import load_pipeline, signature
from tests.support.kube_accounts import MAY_DEPLOY, MAY_TRAIN

PAGE = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text(encoding="utf-8")
BLOCKS = "".join(re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [line for line in BLOCKS.splitlines() if line.startswith("mistudio ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_is_there_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    known = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= known
    if words[0] == "run":
        given = {word.partition("=")[0] for word in words if "=" in word}
        assert given <= set(signature(load_pipeline(words[1])))


def test_the_options_that_the_page_names_are_those_of_its_commands() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {option for name in ("deploy", "train-on-hosts", "run") for each in commands[name].params
             for option in each.opts}  # fmt: skip
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= known | {"--line"}  # which is the server's


@pytest.mark.parametrize(("role", "row"), [(MAY_DEPLOY, "| `deploy` |"), (MAY_TRAIN, "| `train-on-hosts` |")])
def test_the_rights_of_the_page_are_those_that_the_steps_use(role: dict, row: str) -> None:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(row)]
    for rule in role["rules"]:
        group = f".{rule['apiGroups'][0]}" if rule["apiGroups"][0] else ""
        assert f"of `{rule['resources'][0]}{group}`" in line
    verbs = set(re.findall(r"`(get|list|watch|create|update|patch|delete)`", line))
    assert verbs == {verb for rule in role["rules"] for verb in rule["verbs"]}
