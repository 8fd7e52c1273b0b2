"""The page on correlating says what is so: its commands, its lines of curl and its Python run."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.cli import app
from mistudio.correlate.replies import Reply
from model_servers.base.shared import Shared
from model_servers.correlate.predictor import CorrelatePredictor
from tests.support.labelled_texts import LANDS, SEAS, labelled, made_up, write_lines
from tests.support.looked_up import LookedUp, looked_up
from tests.support.serving import serving, url_of
from tests.support.tiny import WIDTH

PAGE = (Path(__file__).parents[2] / "docs" / "correlating.md").read_text()
SERVER = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> LookedUp:
    return looked_up(tmp_path_factory)


@pytest.fixture(scope="module")
def url(line: LookedUp) -> Iterator[str]:
    with serving([CorrelatePredictor(Shared(line.open))]) as server:
        yield url_of(server)


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found


def test_the_commands_print_what_was_found(line: LookedUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, words in (("sea", SEAS), ("land", LANDS)):
        write_lines(tmp_path / f"{name}.jsonl", made_up(words, 20, 1))
    write_lines(tmp_path / "labelled.jsonl", labelled(20))
    chat = [{"role": "user", "content": "the cat sat"}, {"role": "assistant", "content": "under the moon"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    (tmp_path / "vector.json").write_text(json.dumps([1.0] * WIDTH))
    monkeypatch.chdir(tmp_path)
    where = ["--line", line.scores.uri, "--store", line.store.url, "--model", line.source.path]
    commands = [shlex.split(each)[1:] for block in blocks("sh") for each in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        done = CliRunner().invoke(app, [*command, *where])
        assert done.exit_code == 0, (command, done.output, done.exception)
        assert "feature" in done.stdout


def test_the_lines_of_curl_are_answered(url: str) -> None:
    script = "\n".join(blocks("bash")).replace(SERVER, url).replace("curl -s", "curl -sS --fail-with-body -w '\\n'")
    done = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    replies = [Reply.model_validate_json(each) for each in done.stdout.splitlines() if each.strip()]
    assert len(replies) == script.count("curl")
    assert all(reply.hits for reply in replies if reply.look_up != "concept")


def test_the_python_runs(line: LookedUp, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    opened = f"open_served(open_to_read({line.store.url!r}), [{line.scores.uri!r}], SOURCE)"
    for code in blocks("python"):
        code = code.replace(SERVER, url).replace('open_served(open_to_read("build/store"))', opened)
        exec(compile(code, "correlating.md", "exec"), {"SOURCE": line.source})
        assert capsys.readouterr().out.strip()


def test_the_reply_of_the_page_is_one() -> None:
    for block in blocks("json"):
        Reply.model_validate_json(block)
