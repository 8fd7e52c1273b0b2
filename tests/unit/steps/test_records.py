"""What steps of a run on a cluster keep in the store: how they ended, by run, and nothing where there is none."""

from pathlib import Path

import pytest

from mistudio.artifacts import artifact_uris, open_store, tidy_store, verify
from mistudio.errors import GateFailed
from mistudio.events import Failed, Finished
from mistudio.steps import call
from mistudio.steps.records import RUN_ENV, keep, kept

RUN = "1f0f4d8e-3c1b-4b0a-9a53-0d9a4a4f2f11"
FINISHED = Finished(step="train", uri="sae/1", digest="d" * 64, found=False, seconds=1.5, summary={"l0": 4.0})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(RUN_ENV, RUN)
    monkeypatch.setenv("MISTUDIO_STORE", str(tmp_path / "store"))
    return str(tmp_path / "store")


def test_what_is_kept_is_read_as_it_was_told_in_the_order_of_time(store: str) -> None:
    failed = Failed(step="train", message="the disk is full", exit_code=2)
    keep(store, failed)
    keep(store, FINISHED)
    events = kept(open_store(store), RUN, {})
    assert list(events.values()) == [failed, FINISHED]
    assert kept(open_store(store), "another-run", {}) == {}


def test_what_was_read_before_is_not_read_again(store: str) -> None:
    keep(store, FINISHED)
    known = kept(open_store(store), RUN, {})
    (name,) = known
    Path(store, name).write_text("no event any more")
    assert kept(open_store(store), RUN, known) == known


def test_a_file_that_is_no_event_is_left_out(store: str, caplog: pytest.LogCaptureFixture) -> None:
    keep(store, FINISHED)
    open_store(store).create(f"runs/{RUN}/x.json", b"no event")
    assert list(kept(open_store(store), RUN, {}).values()) == [FINISHED]
    assert "no event of this version" in caplog.text


def test_a_step_that_fails_keeps_why_and_with_which_status(store: str) -> None:
    with pytest.raises(GateFailed):
        call("fail_gate", missed="L0 4, asked for at most 2")
    (event,) = kept(open_store(store), RUN, {}).values()
    assert isinstance(event, Failed)
    assert (event.step, event.exit_code) == ("fail_gate", 3)
    assert "L0 4, asked for at most 2" in event.message


def test_secrets_in_what_a_step_says_are_not_kept(store: str) -> None:
    keep(store, Failed(step="explain", message="refused: api_key=sk-0123456789012345678901", exit_code=2))
    (event,) = kept(open_store(store), RUN, {}).values()
    assert isinstance(event, Failed)
    assert "0123456789012345678901" not in event.message


def test_without_a_run_or_with_an_id_that_is_none_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run_id in ("", "../escape", "a" * 200):
        monkeypatch.setenv(RUN_ENV, run_id)
        keep(str(tmp_path / "store"), FINISHED)
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written_is_no_reason_to_fail(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    keep(str(tmp_path / "file"), FINISHED)
    assert "How train ended is not kept" in caplog.text


def test_what_is_kept_is_no_artifact_and_stays(store: str) -> None:
    keep(store, FINISHED)
    opened = open_store(store)
    assert list(artifact_uris(opened)) == []
    assert list(verify(opened)) == []
    tidy_store(opened)
    assert len(kept(opened, RUN, {})) == 1
