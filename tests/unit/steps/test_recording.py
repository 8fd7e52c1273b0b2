"""What a step publishes is on record, by whom, and what it finds is not."""

from pathlib import Path

import pytest

from mistudio.artifacts import actions, open_store, verify_actions
from mistudio.steps import run_step
from tests.support.tiny import tiny_llama


def test_a_step_records_what_it_published_and_not_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")
    monkeypatch.setenv("MISTUDIO_ACTOR", "ada@example.org")
    tiny_llama(tmp_path / "model")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "Document {number} says so."}}\n' for number in range(60)))
    values = {"corpus": str(text), "model": str(tmp_path / "model"), "store": str(tmp_path / "store")}
    made = run_step("ingest", **values, context_length=8)
    assert not made.found
    assert run_step("ingest", **values, context_length=8).found
    store = open_store(str(tmp_path / "store"), "r")
    (recorded,) = actions(store)
    assert recorded.record["action"] == "publish"
    assert (recorded.record["target"], recorded.record["digest"]) == (made.artifact.uri, made.artifact.digest)
    assert recorded.record["actor"]["user"] == "ada@example.org"
    assert recorded.record["detail"] == {"step": "ingest"}
    assert verify_actions(store).problems == ()
