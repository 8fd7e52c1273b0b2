"""The record of who did what: every change of commands and steps is on it, and changes of it show."""

import base64
import datetime
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio.artifacts import Store, actions, artifact_uris, open_store, record, record_action, verify_actions
from mistudio.artifacts.actor import Actor, _account, this_actor
from mistudio.artifacts.chain import FIRST_HASH, sealed
from mistudio.cli import app
from mistudio.errors import ConfigError, DamagedArtifact, InputError, StorageError
from tests.unit.artifacts.conftest import Publish

KEY = "a key for signatures"
SECRET = "a-secret-of-the-environment-51"


def recorded(store: Store, count: int = 3) -> list[str]:
    return [record_action(store, "publish", f"sae/{number}", step="train").name for number in range(count)]


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.output


def test_a_record_says_who_did_what_when_and_to_what(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_ACTOR", "ada@example.org")
    sae = publish()
    record_action(store, "deploy", sae.uri, sae.digest, canary_percent=10, namespace="mistudio-services")
    (found,) = actions(store)
    assert found.record["actor"]["user"] == "ada@example.org"
    assert found.record["actor"]["host"]
    assert (found.record["action"], found.record["target"], found.record["digest"]) == ("deploy", sae.uri, sae.digest)
    assert found.record["detail"] == {"canary_percent": 10, "namespace": "mistudio-services"}
    assert found.name == "actions/0000000/0000000000"


def test_records_hold_on_to_each_other_over_blocks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_BLOCK", 3)
    names = recorded(store, 8)
    assert [name.split("/")[1] for name in names] == ["0000000"] * 3 + ["0000001"] * 3 + ["0000002"] * 2
    assert verify_actions(store)[:2] == ((), 8)
    assert [each.record["number"] for each in actions(store)] == list(range(8))


def test_what_was_done_since_a_day_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_BLOCK", 2)
    for number, day in enumerate((1, 1, 2, 5, 5)):
        set_clock(monkeypatch, f"2026-01-0{day}T12:00:00+00:00")
        record_action(store, "publish", f"sae/{number}")
    assert [each.record["number"] for each in actions(store, "2026-01-02")] == [2, 3, 4]
    assert [each.record["number"] for each in actions(store, "2026-01-05")] == [3, 4]
    assert list(actions(store, "2026-01-06")) == []
    with pytest.raises(InputError, match="'yesterday' is no day"):
        list(actions(store, "yesterday"))


def test_a_clock_that_is_behind_changes_no_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for time in ("2026-01-02T00:00:01+00:00", "2026-01-01T23:59:59+00:00"):
        set_clock(monkeypatch, time)
        record_action(store, "publish", "sae/1")
    assert verify_actions(store)[:2] == ((), 2)
    assert [each.record["time"][:10] for each in actions(store)] == ["2026-01-02", "2026-01-01"]


def set_clock(monkeypatch: pytest.MonkeyPatch, time: str) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Clock":
            return cls.fromisoformat(time)

    monkeypatch.setattr(record.datetime, "datetime", Clock)


def test_of_many_who_act_at_once_none_is_lost(store: Store) -> None:
    def act(number: int) -> str:
        return record_action(open_store(store.url), "publish", f"sae/{number}").name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(act, range(24)))
    assert len(set(names)) == 24
    assert verify_actions(store).actions == 24
    assert verify_actions(store).problems == ()
    assert {each.record["target"] for each in actions(store)} == {f"sae/{number}" for number in range(24)}


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda paths: paths[1].write_bytes(paths[1].read_bytes().replace(b"sae/1", b"sae/7")), "does not follow"),
        (lambda paths: paths[1].unlink(), "record 2, where 1 has to be"),
        (lambda paths: paths[1].write_bytes(paths[2].read_bytes()), "record 2, where 1 has to be"),
        (lambda paths: paths[1].write_bytes(b"{}"), "no object with a hash"),
        (lambda paths: paths[1].write_bytes(b"\xff\n"), "codec"),
        (lambda paths: paths[0].write_bytes(paths[0].read_bytes().replace(b"train", b"trial")), "does not follow"),
    ],
)
def test_a_record_that_was_changed_moved_or_taken_out_is_named(store: Store, harm, what: str) -> None:
    paths = [store.fetch(name) for name in recorded(store)]
    harm(paths)
    (problem,) = verify_actions(store).problems
    assert what in problem
    assert problem.startswith("actions/")


@pytest.mark.parametrize("folder", ["0000001", "9", "other"])
def test_a_record_in_the_wrong_place_stops_nobody_and_is_named(store: Store, folder: str) -> None:
    names = recorded(store)
    assert store.create(f"actions/{folder}/0000000001", store.read(names[1]))
    assert record_action(store, "publish", "sae/3").name == "actions/0000000/0000000003"
    (problem,) = verify_actions(store).problems
    assert problem.startswith(f"actions/{folder}/0000000001: ")


def test_what_is_in_the_way_of_a_record_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "sleep", lambda _seconds: None)
    recorded(store)
    assert store.create("actions/0000000/0000000003/file", b"")
    with pytest.raises(StorageError, match="actions/0000000/0000000003 is there, and is no file"):
        record_action(store, "publish", "sae/3")


def test_a_whole_line_of_something_else_is_no_record(store: Store) -> None:
    recorded(store, 1)
    line, _ = sealed(verify_actions(store).head, {"record": "action", "number": 1, "action": "publish"})
    assert store.create("actions/0000000/0000000001", line)
    (problem,) = verify_actions(store).problems
    assert problem == "actions/0000000/0000000001: it is no record of an action."
    with pytest.raises(DamagedArtifact, match="it is no record of an action"):
        list(actions(store))


def test_records_taken_off_the_end_show_to_who_has_noted_the_head(store: Store) -> None:
    names = recorded(store)
    head = verify_actions(store).head
    store.remove(names[-1])
    assert verify_actions(store).problems == ()
    (problem,) = verify_actions(store, head).problems
    assert "records at the end are gone" in problem
    assert run("audit", "verify", "--head", head, "--store", store.url)[0] == 5
    with pytest.raises(ConfigError, match="is no hash"):
        verify_actions(store, "0")


def test_a_signed_record_cannot_be_made_anew_without_the_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_SIGNING_KEY", KEY)
    recorded(store, 1)
    monkeypatch.delenv("MISTUDIO_SIGNING_KEY")
    recorded(store, 1)
    monkeypatch.setenv("MISTUDIO_SIGNING_KEY", KEY)
    assert verify_actions(store)[:2] == ((), 2)
    assert verify_actions(store).unsigned == 1
    monkeypatch.setenv("MISTUDIO_SIGNING_KEY", KEY * 2)
    (problem,) = verify_actions(store).problems
    assert "its signature is not that of this process's key" in problem
    monkeypatch.delenv("MISTUDIO_SIGNING_KEY")
    assert verify_actions(store).unsigned is None, "without a key nobody knows"


def test_what_is_recorded_holds_no_secret_and_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    record_action(store, "publish", f"sae/{SECRET}", detail_of=f"{SECRET} \ud800" + "x" * 10_000)
    content = store.read(next(store.list("actions")))
    assert SECRET.encode() not in content
    assert len(content) < 2_000


def test_commands_put_what_they_change_on_record_and_what_they_find_not(
    store: Store, publish: Publish, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.\n\nThe end.\n")
    sae = publish()
    where = ("--store", store.url)
    run("corpus", "add", str(text), "--name", "films", *where)
    run("corpus", "add", str(text), "--name", "films", *where)
    run("corpus", "remove", "films", *where)
    run("artifacts", "name", sae.uri, "champion", "--author", "grace", *where)
    run("artifacts", "remove", sae.uri, "--yes", *where)
    found = [(each.record["action"], each.record["target"], each.record["digest"]) for each in actions(store)]
    assert [each[:2] for each in found] == [
        ("publish", found[0][1]),
        ("remove", "films"),
        ("name", sae.uri),
        ("remove", sae.uri),
    ]
    assert found[0][1].endswith("/films")
    assert found[3][2] == sae.digest
    code, output = run("audit", "list", *where)
    assert code == 0
    assert len(output.splitlines()) == 4
    listed = json.loads(run("audit", "list", "--action", "name", "--json", *where)[1])
    assert [each["detail"]["author"] for each in listed] == ["grace"]
    code, output = run("audit", "verify", *where)
    assert code == 0
    assert "4 records; signatures were not looked at" in output
    assert f"Head: {list(actions(store))[-1].hash}" in output


def test_what_is_not_on_record_is_told_beside_what_is(store: Store) -> None:
    record_action(store, "promote", "sae/1", was="", alias="champion")
    code, output = run("audit", "list", "--action", "promoted", "--store", store.url)
    assert code == 0
    assert output == f"The store {store.url} has nothing of action 'promoted' on record; there is promote.\n"
    (line,) = run("audit", "list", "--store", store.url)[1].splitlines()
    assert "sae/1  alias champion  by" in line
    _, output = run("audit", "list", "--since", "2999-01-01", "--store", store.url)
    assert output == f"The store {store.url} has nothing since 2999-01-01 on record.\n"


def test_what_no_command_made_is_told(store: Store, publish: Publish) -> None:
    publish()
    code, output = run("audit", "verify", "--store", store.url)
    assert code == 0
    assert "Of 1 artifacts nothing is on record" in output
    assert f"Head: {FIRST_HASH}" in output


def test_records_are_no_artifacts_and_a_damaged_one_is_named(store: Store) -> None:
    (name,) = recorded(store, 1)
    assert list(artifact_uris(store)) == []
    store.fetch(name).write_bytes(b"nothing")
    with pytest.raises(DamagedArtifact, match=r"actions/\S+/0000000000 is damaged"):
        list(actions(store))
    assert record_action(store, "remove", "sae/1").record["number"] == 1
    assert run("audit", "verify", "--store", store.url)[0] == 3


def test_a_store_that_is_read_takes_no_record(store: Store) -> None:
    with pytest.raises(StorageError, match="read only"):
        record_action(open_store(store.url, "r"), "publish", "sae/1")


def token(claims: object) -> bytes:
    return b"e30." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=") + b".c2ln"


@pytest.mark.parametrize(
    ("content", "account"),
    [
        (token({"sub": "system:serviceaccount:mistudio-data:mistudio-pipelines"}),
         "system:serviceaccount:mistudio-data:mistudio-pipelines"),
        (token({"sub": "somebody else\n"}), None),
        (token({"sub": 1}), None),
        (token([]), None),
        (b"no token", None),
        (b"a.%%%.c", None),
        (b"", None),
    ],
)  # fmt: skip
def test_the_service_account_is_what_the_token_of_a_pod_says(
    tmp_path: Path, content: bytes, account: str | None
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    assert _account(path) == account
    assert _account(tmp_path / "none") is None


def test_an_actor_without_a_user_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    monkeypatch.delenv("MISTUDIO_ACTOR", raising=False)
    assert this_actor().user == f"uid {os.getuid()}"


def test_a_server_says_which_key_acted(store: Store) -> None:
    record_action(store, "preset", "preset/1", actor=this_actor()._replace(key="grace"))
    (found,) = actions(store)
    assert Actor(**found.record["actor"]).key == "grace"
