"""What the commands say of their own options: the store in one form, and inputs that have to be given."""

import re

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.runs.checkout import pipeline_names
from mistudio.steps import STEPS

STORE = "Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder."
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
    ["direction"],
    ["preset", "save"],
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
        about = re.search(rf"--{each.name.replace('_', '-')} <str>(.*?)(?=\n +--|\Z)", shown, re.DOTALL)
        assert about is not None
        assert ("[required]" in about[1]) is not each.optional


@pytest.mark.parametrize(
    "group", [[], ["artifacts"], ["runs"], ["corpus"], ["import"], ["export"], ["preset"]], ids=" ".join
)
def test_what_each_command_does_fits_into_its_line(group):
    shown = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "80"}).stdout
    lines = shown.partition("Commands:\n")[2].splitlines()
    assert len(lines) > 1
    assert [line for line in lines if line.endswith("...")] == []


def test_no_command_has_an_underscore():
    assert "find-part" in help_of()
    assert [line for line in help_of().splitlines() if re.match(r"  [a-z-]*_", line)] == []


def test_run_names_the_pipelines_that_there_are_also_where_none_is_given():
    names = "|".join(pipeline_names())
    assert f"{{{names}}}" in help_of("run")
    assert names in CliRunner().invoke(app, ["run"]).stderr


@pytest.mark.parametrize("command", ["validate-model", "check-memory", "run", "capture", "find"])
def test_the_models_that_come_by_name_are_named(command):
    shown = " ".join(help_of(command).split())
    assert all(name in shown for name in ("demo", "smollm2", "subject/..."))


@pytest.mark.parametrize("command", ["explain", "score", "find-more"])
def test_a_selection_and_what_it_is_added_to_have_examples(command):
    examples = re.split(r"\n\n +mistudio ", help_of(command).partition("Options:")[0])[1:]
    assert all(example.startswith(command) for example in examples)
    assert ["--only" in each for each in examples] == [False, True, True]
    assert "--base" in examples[-1]
