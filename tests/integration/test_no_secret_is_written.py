"""A whole run with a marked secret in every variable that holds one: none is in what is left behind or shown."""

import base64
import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.scripted_server import Answer, ScriptedServer
from tests.support.tiny import tiny_documents, tiny_llama

ROOT = Path(__file__).parents[2]
# Every variable that holds a secret, ours and those of the libraries below us.
SECRETS = {
    name: f"marked{number:02d}{'secret' * 3}{number:02d}"
    for number, name in enumerate(
        (
            "MISTUDIO_LLM_API_KEY",
            "OPENAI_API_KEY",
            "MISTUDIO_SIGNING_KEY",
            "MISTUDIO_API_KEYS",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "HF_TOKEN",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "SOMEBODY_ELSES_PASSWORD",
        )
    )
}
MARK = re.compile(r"marked\d\d(?:secret)+")
POLL_S = 0.02


class Left(NamedTuple):
    """What a run has left."""

    folder: Path
    output: str
    command_lines: frozenset[str]
    asked: list[str]  # the keys that the judge was sent


class Tattler:
    """A judge that repeats the key that it was sent in all that it says."""

    def chat(self, _system: str, _prompt: str) -> Answer:
        said = f"the key {SECRETS['MISTUDIO_LLM_API_KEY']}"
        return Answer(json.dumps({"explanation": said, "label": said}))

    def losses(self, _text: str) -> list[tuple[str, float]]:
        return []

    def embed(self, _text: str) -> list[float]:
        return [1.0]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISTUDIO_", "AWS_"))}
    ours = {**SECRETS, "MISTUDIO_API_KEYS": f"ada:{SECRETS['MISTUDIO_API_KEYS']}"}
    return {**kept, **ours, "OMP_NUM_THREADS": "1", "MISTUDIO_CHECKOUT": str(ROOT)}


def mistudio(*arguments: str) -> tuple[int, str, set[str]]:
    """Exit status, output, and the command lines of all processes that there were meanwhile."""
    command = [sys.executable, "-c", "from mistudio.cli import main; main()", *arguments]
    seen: set[str] = set()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, over, seen))
        watcher.start()
        output = process.communicate(timeout=540)[0]
        over.set()
        watcher.join()
    return process.returncode, output, seen


def _watch(pid: int, over: threading.Event, seen: set[str]) -> None:
    while not over.wait(POLL_S):
        try:
            processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            seen |= {" ".join(each.cmdline()) for each in processes}
        except psutil.Error:
            continue


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    folder = tmp_path_factory.mktemp("secrets")
    tiny_llama(folder / "model")
    lines = [json.dumps(document) + "\n" for document in tiny_documents(60)]
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    store = ("--store", str(folder / "store"))
    with ScriptedServer(Tattler()) as judge:
        settings = {
            "model": folder / "model", "corpus": folder / "text.jsonl", "train_tokens": 10_000, "width": 64, "k": 4,
            "contexts": 5, "explainer": "program,max-activating", "judge_url": judge.url, "judge_model": "tattler",
        }  # fmt: skip
        sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        keyed = f'judge_settings={{"api_key": "{SECRETS["OPENAI_API_KEY"]}"}}'
        commands = [
            (0, ("run", "interpret", *store, "--summary", str(folder / "summary.json"), *sets)),
            (0, ("compile", "--output", str(folder / "compiled"))),
            (0, ("artifacts", "verify", *store)),
            (0, ("audit", "verify", *store)),
            (0, ("audit", "list", *store)),
            (0, ("run", "--help")),
            (0, ("serve", "--help")),
            (2, ("evaluate", "--sae", f"sae/{SECRETS['HF_TOKEN']}", *store)),
            (2, ("run", "interpret", "--set", keyed, *store)),
            (2, ("serve", "--line", "sae/none", *store)),
        ]  # fmt: skip
        outputs, command_lines = [], set()
        for status, arguments in commands:
            code, output, seen = mistudio(*arguments)
            assert code == status, output
            outputs.append(output)
            command_lines |= seen if status == 0 else set()  # those that end with 2 were given secrets by us
        return Left(folder, "\n".join(outputs), frozenset(command_lines), [each.key for each in judge.asked])


def contents(path: Path) -> Iterator[str]:
    """All texts in a file: as it lies there, and what is packed in it."""
    raw = path.read_bytes()
    yield raw.decode("utf-8", "replace")
    yield raw.decode("utf-16-le", "replace")
    if path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist())
    for packed in re.findall(rb"H4sI[A-Za-z0-9+/=]{16,}", raw):
        yield gzip.decompress(base64.b64decode(packed)).decode()


@pytest.mark.proof
def test_no_secret_of_the_environment_is_in_a_file_that_a_run_leaves(left: Left) -> None:
    files = [path for path in left.folder.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".parquet", ".json", ".jsonl", ".html", ".yaml", ".log", ".db"} <= kinds
    found = {str(path.relative_to(left.folder)): MARK.findall(text) for path in files for text in contents(path)}
    assert {name: marks for name, marks in found.items() if marks} == {}


@pytest.mark.proof
def test_what_was_to_be_hidden_was_there_to_be_hidden(left: Left) -> None:
    """The judge was sent the key, its answers were used, and the manifests are signed with the other."""
    assert f"Bearer {SECRETS['MISTUDIO_LLM_API_KEY']}" in left.asked
    explanations = next((left.folder / "store" / "explanations").glob("*/explanations.parquet"))
    texts = {row["text"] for row in pq.read_table(explanations).to_pylist() if row["text"]}
    assert "the key ***" in texts
    assert list((left.folder / "store").glob("sae/*/manifest.hmac"))


@pytest.mark.proof
def test_no_secret_is_printed_or_handed_on_by_a_command_line(left: Left) -> None:
    assert MARK.findall(left.output) == []
    assert any("mistudio" in line for line in left.command_lines)
    assert [line for line in left.command_lines if MARK.search(line)] == []
