"""The page on steering says what is so: its lines of curl and its Python run against a server."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_servers.steer.predictor import SteerPredictor
from tests.support.served import CHAT_TEMPLATE, tiny_store
from tests.support.serving import serving, url_of

PAGE = (Path(__file__).parents[2] / "docs" / "steering.md").read_text()
MAXIMUM = 3.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    tiny = tiny_store(tmp_path_factory)
    predictor = SteerPredictor(tiny.shared(), chat_template=CHAT_TEMPLATE)
    with serving([predictor]) as server:
        yield url_of(server)


def blocks(language: str) -> list[str]:
    """The pieces of code of a language, for the tiny model: another name, fewer features, and no known maxima."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return [
        re.sub(r'"feature(s?)": (\[?)(\d+)', lambda m: f'"feature{m[1]}": {m[2]}{int(m[3]) % 64}', block)
        .replace('"watch": [', '"watch": [0, ')
        .replace('"smollm2"', '"model"')
        .replace('"unit": "feature_max"', '"unit": "relative"')
        for block in found
    ]


def test_the_lines_of_curl_are_answered(url: str) -> None:
    script = "\n".join(blocks("bash")).replace("http://127.0.0.1:8080", url)
    script = re.sub(r'("watch": \[0), \d+', r"\1", script).replace("curl -s", "curl -sS --fail-with-body -w '\\n'")
    done = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    assert len(answers) == script.count("curl")
    compared = [one for one in answers if "choices" in one]
    assert compared
    assert all(one["choices"][0]["steering"]["comparison"]["dose"] for one in compared)


def test_the_python_runs(url: str) -> None:
    for code in blocks("python"):
        code = code.replace("http://127.0.0.1:8080", url)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "resid_post" in done.stdout


def test_where_an_edit_acts_is_as_the_page_has_it() -> None:
    from mistudio.instrument.edits import Where

    for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL):
        Where.model_validate_json(block, strict=True)
