"""Servers as processes: what they say when they cannot start, and how they end."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from mistudio.steer.bounds import SteerLimits
from model_servers.command_line import _EXAMPLES
from tests.support.served import TinyStore, tiny_store

ROOT = Path(__file__).parents[2]
NAME = "model"
COMPLETIONS = "/openai/v1/completions"
LONG = {"model": NAME, "prompt": "once", "max_tokens": 2000, "ignore_eos": True, "stream": True, "temperature": 0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


class Process:
    """A server, and what it logs."""

    def __init__(self, *arguments: str) -> None:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "model_servers", *arguments],
            env={**os.environ, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.logged: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def until(self, message: str) -> dict[str, Any]:
        """The next line with this message."""
        while (line := self._lines.get(timeout=120)) is not None:
            content = json.loads(line) if line.startswith("{") else {"message": line}
            self.logged.append(content)
            if content["message"] == message:
                return content
        raise AssertionError(self.logged)

    def tell(self, number: int) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Its exit status."""
        return self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@contextmanager
def started(tiny: TinyStore, *arguments: str) -> Iterator[tuple[Process, httpx.Client]]:
    known = ["--store", str(tiny.store.url), "--subject", tiny.source.path, "--port", "0", *arguments]
    with Process(*known) as process:
        port = process.until("listening")["port"]
        process.until("loaded")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield process, client


def test_on_sigterm_a_server_finishes_what_it_is_at_and_answers_nothing_new(tiny: TinyStore) -> None:
    with (
        started(tiny, "--drain-timeout-s", "300") as (process, client),
        client.stream("POST", COMPLETIONS, json=LONG) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        process.tell(signal.SIGTERM)
        process.until("draining")
        refused = client.post(COMPLETIONS, json=LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"]
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert process.ended() == 0


@pytest.mark.proof
def test_look_ups_a_watch_and_steering_share_a_process_and_the_model_in_it(tiny: TinyStore, tmp_path: Path) -> None:
    models = ("--models", "correlate,monitor,steer", "--monitor-folder", str(tmp_path), "--drain-timeout-s", "300")
    with started(tiny, *models) as (process, client):
        loaded = [process.logged[-1], process.until("loaded"), process.until("loaded")]
        assert [line["predictor"] for line in loaded] == ["correlate", "monitor", "steer"]
        assert client.get("/v1/models").json() == {"models": ["correlate", "monitor", NAME]}
        hits = client.post("/v1/correlate/text", json={"text": "once upon a time", "top": 1}).json()["hits"]
        edit = {"op": "ablate", "feature": hits[0]["feature"]}
        short = {"model": NAME, "prompt": "once", "max_tokens": 2, "steering": {"edits": [edit]}}
        assert client.post(COMPLETIONS, json=short).status_code == 200
        assert client.get("/v1/monitor/status").status_code == 200
        with client.stream("POST", COMPLETIONS, json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.tell(signal.SIGTERM)
            process.until("draining")
            assert client.post("/v1/correlate/text", json={"text": "once"}).status_code == 503
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.ended() == 0


@pytest.mark.proof
def test_what_is_not_finished_in_time_ends_with_an_error_that_says_so(tiny: TinyStore) -> None:
    with (
        started(tiny, "--drain-timeout-s", "0.05") as (process, client),
        client.stream("POST", COMPLETIONS, json=LONG) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        process.tell(signal.SIGINT)
        events = [line.removeprefix("data: ") for line in lines if line]
        assert json.loads(events[-1])["error"]["code"] == "draining"
        assert process.ended() == 0


@pytest.mark.proof
def test_a_server_that_is_told_to_end_while_it_loads_ends(tiny: TinyStore) -> None:
    known = ["--store", str(tiny.store.url), "--subject", tiny.source.path, "--port", "0"]
    with Process(*known) as process:
        process.until("listening")
        process.tell(signal.SIGTERM)
        process.until("ended")
        assert process.ended() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--port", "70000"], "port"),
        (["--rows", "many"], "rows"),
        (["--models", "melt"], "'melt'"),
        (["--host", "0.0.0.0"], "MISTUDIO_API_KEYS"),
        (["--keys-file", "/nowhere"], "--keys-file"),
        (["--chat-template", "/nowhere"], "--chat-template"),
        (["--line", "sae/0000000000000000"], "sae/0000000000000000"),
    ],
)
def test_what_keeps_a_server_from_starting_is_one_line_and_status_2(
    tiny: TinyStore, arguments: list[str], said: str
) -> None:
    with Process("--store", str(tiny.store.url), "--port", "0", *arguments) as process:
        assert process.ended() == 2
        with pytest.raises(AssertionError):
            process.until("nothing more")
    (line,) = [line["message"] for line in process.logged if line["message"].startswith("Error: ")]
    assert said in line
    assert not [line for line in process.logged if "Traceback" in line["message"]]


def test_the_edit_that_help_shows_is_within_the_bounds_of_a_server_as_it_starts() -> None:
    shown = re.search(r"completions .*?-d '({.*?})'\n", _EXAMPLES, re.DOTALL)
    assert shown
    (edit,) = json.loads(shown[1])["steering"]["edits"]
    assert edit["unit"] == "relative"
    most = SteerLimits().max_relative
    assert most is not None
    assert edit["strength"] <= most


def test_help_has_examples_and_imports_neither_torch_nor_kserve() -> None:
    code = (
        "import sys\nfrom model_servers.command_line import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    print(*sorted({'torch', 'kserve'} & sys.modules.keys()), 'imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "examples:" in done.stdout
    assert "--requests-per-minute" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported"
