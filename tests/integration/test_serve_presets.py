"""Presets of the store by name, and the log of all that changes the model, over HTTP."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistudio.instrument.edits import Edits
from mistudio.steer.audit import AuditLog
from mistudio.steer.audit_verify import verify_log
from mistudio.steer.opening import nameable
from mistudio.steer.preset_store import save_preset
from mistudio.steer.preset_use import make_preset, parts_of
from model_servers.base.keys import ENVIRONMENT, read_keys
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import TinyStore, tiny_store
from tests.support.serving import serving, url_of

SECRET = "correct-horse-battery"
PATH = "/openai/v1/completions"
EDITS = {"edits": [{"op": "add", "feature": 3, "strength": 2.0, "unit": "relative"}]}
PLAIN = {"model": "model", "prompt": "the cat sat", "max_tokens": 10, "temperature": 0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "interventions.jsonl"


@pytest.fixture(scope="module")
def server(tiny: TinyStore, log: Path) -> Iterator[ModelServer]:
    keys = read_keys(ServerSettings(), {ENVIRONMENT: f"alice:{SECRET}"})
    with serving([SteerPredictor(tiny.shared(), audit=AuditLog(log))], keys) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {SECRET}"}
    with httpx.Client(base_url=url_of(server), headers=headers, timeout=60) as made:
        yield made


def text(client: httpx.Client, **more: Any) -> str:
    return str(client.post(PATH, json={**PLAIN, **more}).json()["choices"][0]["text"])


def test_a_preset_that_is_saved_while_the_model_is_served_acts_as_its_edits_do(
    client: httpx.Client, tiny: TinyStore
) -> None:
    refused = client.post(PATH, json={**PLAIN, "steering": {"preset": "calm"}})
    assert (refused.status_code, "calm" in refused.text) == (404, True)
    with tiny.open() as served:
        save_preset(tiny.store, make_preset("calm", "me", Edits.model_validate(EDITS), parts_of(nameable(served))))
    assert client.get("/describe").json()["presets"] == ["calm"]
    assert text(client, steering={"preset": "calm"}) == text(client, steering=EDITS) != text(client)


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The lines of the log, once that of each request's end is there, which may be written after its answer."""
    for _ in range(600):
        every = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        lines = [line for line in every if "outcome" in line]
        begun = {line["request"] for line in lines if line["outcome"] == "admitted"}
        if len(lines) == 2 * len(begun):
            return lines
        time.sleep(0.1)
    message = f"Requests without an end: {lines}"
    raise AssertionError(message)


@pytest.mark.parametrize("name", ["../../etc/passwd", "calm/../calm", "", "a\u0000b", "x" * 200])
def test_a_name_that_no_preset_has_is_refused(client: httpx.Client, name: str) -> None:
    assert client.post(PATH, json={**PLAIN, "steering": {"preset": name}}).status_code in (400, 404)


def test_what_changes_the_model_is_in_the_log_with_who_asked_and_what_does_not_is_not(
    client: httpx.Client, log: Path
) -> None:
    before = len(lines_of(log))
    text(client)
    assert len(lines_of(log)) == before
    client.post(PATH, json={**PLAIN, "steering": EDITS}, headers={"x-request-id": "mine-1"})
    admitted = lines_of(log)[before]
    assert (admitted["request"], admitted["key"], admitted["outcome"]) == ("mine-1", "alice", "admitted")
    assert PLAIN["prompt"] not in log.read_text()
    assert verify_log(log).state == "intact"
    assert client.get("/describe").json()["is_logged"]


def test_where_the_log_cannot_be_written_nothing_is_steered(tiny: TinyStore, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with (
        serving([SteerPredictor(tiny.shared(), audit=AuditLog(log))]) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        assert client.post(PATH, json={**PLAIN, "steering": EDITS}).status_code == 200
        lines_of(log)
        log.unlink()
        log.mkdir()  # no line can be written there any more
        refused = client.post(PATH, json={**PLAIN, "steering": EDITS})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
        assert client.post(PATH, json=PLAIN).status_code == 200
