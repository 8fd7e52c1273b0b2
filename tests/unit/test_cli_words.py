"""What the commands say of their own options: the store in one form, and inputs that have to be given."""

import re

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.steps import STEPS

STORE = "Folder of the store; empty: MISTUDIO_STORE, else the user's data folder."
COMMANDS = (
    ["train"],
    ["runs", "list"],
    ["artifacts", "list"],
    ["corpus", "add"],
    ["demo"],
    ["run"],
    ["import", "sae"],
    ["verify-method"],
    ["check-memory"],
)


def help_of(*command: str) -> str:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    return shown.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_store_is_described_in_one_form(command):
    assert f"--store <str> {STORE}" in " ".join(help_of(*command).split())


@pytest.mark.parametrize("name", ["train", "find", "score", "report"])
def test_inputs_that_have_to_be_given_are_marked_and_others_are_not(name):
    step = STEPS[name]
    shown = help_of(step.command)
    for each in step.inputs:
        about = re.search(rf"--{each.name} <str>(.*?)(?=\n +--|\Z)", shown, re.DOTALL)
        assert about is not None
        assert ("[required]" in about[1]) is not each.optional
