"""The page on monitoring says what is so: its lines of curl, its Python and its files run against a server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import Rules, read_rules
from mistudio.monitor.watch.watch_list import read_watch_list
from tests.support.monitored import watching
from tests.support.pages import broken_links, exported_metrics, metrics, missing_paths, unknown_variables
from tests.support.served import tiny_store
from tests.support.serving import url_of

NAME = "monitoring.md"
PAGE = (Path(__file__).parents[2] / "docs" / NAME).read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The watch list and the rules of the page, as files."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in zip(("watch.yaml", "rules.yaml", "stop.yaml"), blocks("yaml"), strict=True):
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def url(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given: dict[str, Any] = {"watch_list": files / "watch.yaml"}
    with watching(tiny_store(tmp_path_factory), files, steers=True, **given) as (server, _):
        yield url_of(server)


def test_the_lines_of_curl_are_answered(url: str) -> None:
    script = "\n".join(blocks("bash")).replace("http://127.0.0.1:8080", url)
    script = script.replace("curl -s", "curl -sS --fail-with-body -w '\\n'")
    done = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    assert len(answers) == script.count("curl -sS")
    assert [one["taken"] for one in answers if "taken" in one] == [1, 1, 1]
    (seen,) = [one["predictions"] for one in answers if "predictions" in one]
    assert seen[0]["watched"].keys() == {"cats", "moods"}


def test_the_python_runs(url: str) -> None:
    for code in blocks("python"):
        code = code.replace("http://127.0.0.1:8080", url)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "'max'" in done.stdout


def test_the_files_are_read_and_fit_together(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch_list, rules = read_watch_list(files / "watch.yaml"), read_rules(files / "rules.yaml")
    thresholds = {"cats": 0.2, "moods": 0.1}
    assert RuleBook(rules, watch_list.with_thresholds(thresholds)).update
    assert Rules.model_validate(yaml.safe_load((files / "stop.yaml").read_text())).rules[0].actions[-1] == "end"


def test_what_the_page_names_is_there() -> None:
    assert metrics(PAGE) - {"mistudio_monitor"} <= exported_metrics()
    named = {name for name in exported_metrics() if name.startswith("mistudio_monitor_")}
    assert named <= metrics(PAGE)
    assert not broken_links(NAME)
    assert not missing_paths(PAGE)
    assert not unknown_variables(PAGE) - {"MISTUDIO_WEBHOOK_PAGE"}


def test_every_option_of_the_page_is_one() -> None:
    from model_servers.command_line import _parser

    known = {flag for action in _parser()._actions for flag in action.option_strings}
    named = set(re.findall(r"(--[a-z][a-z0-9-]+)", PAGE))
    assert named <= known, named - known
