"""Every command on the page about Kubeflow exists, with every option that it shows; so does all else that it names."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mistudio.runs import connection
from mistudio.steps import STEPS, records
from tests.support.command_lines import mistudio_program, refusal, shown_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "kubeflow.md"


@pytest.mark.parametrize("line", shown_in(PAGE, "mistudio"))
def test_a_command_of_the_page_is_one_of_the_program(line: str) -> None:
    assert refusal(mistudio_program(), line) == ""


def test_the_check_finds_what_is_not_there() -> None:
    assert refusal(mistudio_program(), "mistudio submit interpret --no-such 1") == "it has no option --no-such"
    assert refusal(mistudio_program(), "mistudio runs look") == "there is no command look"
    assert len(shown_in(PAGE, "mistudio")) > 20


@pytest.mark.parametrize("line", shown_in(PAGE, "make"))
def test_a_make_target_of_the_page_exists(line: str) -> None:
    targets = line.split()[1:2]
    done = subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", shown_in(PAGE, "kfp recurring-run"))
def test_a_command_of_kfp_is_one_of_the_version_that_is_installed(line: str) -> None:
    from kfp.cli.cli import cli  # the program itself asks a server before it shows even its help

    group: Any = cli.get_command(None, "recurring-run")
    assert refusal(group, line.removeprefix("kfp ")) == ""


def test_every_step_of_the_main_job_is_on_the_page_by_its_title() -> None:
    from pipelines.interpret import TAKES

    text = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    # The parts of find's pass are told as the loop that they are.
    missing = [STEPS[step].title for step in TAKES if step != "find_part" and STEPS[step].title not in text]
    assert missing == []


def test_every_variable_that_leads_to_kubeflow_is_on_the_page_of_variables() -> None:
    named = [value for name, value in vars(connection).items() if name.endswith(("_ENV", "_ENVS"))]
    variables = [each for value in named for each in ((value,) if isinstance(value, str) else value)]
    assert len(variables) == 11
    text = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert [name for name in (*variables, records.RUN_ENV) if f"`{name}`" not in text] == []


def test_the_links_of_the_page_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text(encoding="utf-8"))
    assert all(os.path.exists(PAGE.parent / link) for link in links)
