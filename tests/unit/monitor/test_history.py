"""The history: what is kept and found, what is dropped, who may write, and what of texts is kept."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mistudio.errors import InputError, NotFound, StorageError
from mistudio.monitor.history.database import DATABASE_NAME
from mistudio.monitor.history.history import History, HistoryConfig
from mistudio.monitor.records import Alert, Observation, Origin
from tests.support.firing import URI, observation

COLUMNS = {"trigger": "7a", "refusal": "7b"}
SOON = 2000.0  # behind the times of the observations


def _history(folder: Path, **settings: object) -> History:
    return History(folder, HistoryConfig.model_validate(settings), COLUMNS, clock=lambda: SOON)


def _seen(number: int, features: tuple[int, ...] = (), value: float = 0.5, **more: object) -> Observation:
    return observation(number, features, max_W=(value, float("nan")), **more)  # type: ignore[arg-type]


def _alert(number: int, rule: str = "drift", watched: tuple[str, ...] = (f"{URI}#1",)) -> Alert:
    values = {"log10_e": np.float32(3.5), "nothing": float("inf"), "texts": np.int64(7)}
    return Alert(
        f"a{number}", 1000.0 + number, rule, "drift", "warning", "m", Origin("m"), f"r{number}", watched, values
    )


def test_what_was_committed_is_found_by_time_request_feature_and_value(tmp_path: Path) -> None:
    with _history(tmp_path) as history:
        history.commit([_seen(number, (number, 500), value=number / 10) for number in range(10)])
        assert [one.exchange for one in history.samples()] == [f"r{number}" for number in reversed(range(10))]
        by_time = history.samples(since=1003, until=1005)
        assert [one.exchange for one in by_time] == ["r4", "r3"]
        (one,) = history.samples(exchange="r7")
        assert one.watched == {"trigger": pytest.approx(0.7)}
        assert one.fired == {URI: [(500, 1, 501.0), (7, 1, 8.0)]}
        assert [each.exchange for each in history.samples(feature=f"{URI}#4")] == ["r4"]
        assert len(history.samples(feature=f"{URI}#500", limit=3)) == 3
        assert [each.exchange for each in history.samples(column="trigger", min_value=0.75)] == [
            "r9",
            "r8",
        ]
        assert history.samples(column="refusal") == []
        assert history.samples(origin={"model": "other"}) == []
        second_page = history.samples(before=history.samples(limit=4)[-1].number, limit=4)
        assert [each.exchange for each in second_page] == ["r5", "r4", "r3", "r2"]


def test_samples_of_another_column_of_the_same_name_are_told_apart_until_it_is_back(tmp_path: Path) -> None:
    other = {**COLUMNS, "trigger": "8a"}
    for number, columns in enumerate((COLUMNS, other)):
        with History(tmp_path, None, columns, clock=lambda: SOON) as history:
            history.commit([_seen(number, value=number + 1.0)])
            assert history.last_identities() == columns
    for reader in (History(tmp_path, read_only=True), History(tmp_path, None, other, clock=lambda: SOON)):
        with reader as history:
            assert [one.watched for one in history.samples()] == [{"trigger": 2.0}, {"trigger@7a": 1.0}]
            assert history.samples()[1].places.keys() == {"trigger@7a"}
            assert [one.exchange for one in history.samples(column="trigger", min_value=0)] == ["r1"]
            assert [one.exchange for one in history.samples(column="trigger@7a", min_value=0)] == ["r0"]
    with _history(tmp_path) as history:
        assert [one.watched for one in history.samples()] == [{"trigger@8a": 2.0}, {"trigger": 1.0}]


def test_alerts_are_found_and_acknowledged_and_told_once(tmp_path: Path) -> None:
    with _history(tmp_path) as history:
        history.commit(alerts=[_alert(1), _alert(2, "burst", ("trigger", "trigger"))])
        history.commit(alerts=[_alert(1)])
        assert [alert.id for alert in history.alerts()] == ["a2", "a1"]
        (burst,) = history.alerts(rule="burst", watched="trigger")
        assert burst.watched == ("trigger", "trigger")
        assert burst.values == {"log10_e": 3.5, "nothing": None, "texts": 7}
        assert history.acknowledge("a1").id == "a1"
        assert [alert.id for alert in history.alerts(is_open=True)] == ["a2"]
        with pytest.raises(NotFound, match="a9"):
            history.acknowledge("a9")


def test_what_is_no_query_is_refused_in_words(tmp_path: Path) -> None:
    with _history(tmp_path) as history:
        refused: list[dict[str, object]] = [{"feature": "17"}, {"feature": "a#-1"}, {"min_value": 1.0}, {"limit": 0}]
        refused += [{"limit": 1001}, {"exchange": "x" * 600}, {"colour": "red"}]
        for asked in refused:
            with pytest.raises(InputError):
                history.samples(**asked)
        assert history.samples(exchange="'; DROP TABLE samples; --") == []


def test_a_state_is_the_last_whole_with_what_was_added_since(tmp_path: Path) -> None:
    with _history(tmp_path) as history:
        assert history.state("drift") == (None, ())
        history.commit(deltas={"drift": b"1"})
        history.commit(states={"drift": b"whole", "rules": b"r"}, deltas={"drift": b"2"})
        history.commit(deltas={"drift": b"3"})
        assert history.state("drift") == (b"whole", (b"2", b"3"))
        assert (history.num_deltas("drift"), history.num_deltas("rules")) == (2, 0)
    with _history(tmp_path) as history:
        assert history.state("drift") == (b"whole", (b"2", b"3"))
        assert history.state("rules").whole == b"r"


def test_a_commit_that_fails_keeps_nothing_of_it(tmp_path: Path) -> None:
    with _history(tmp_path) as history:
        with pytest.raises(InputError, match="columns"):
            history.commit([_seen(1), observation(2)], [_alert(1)], {"drift": b"x"})
        assert history.counts()["samples"] == 0
        assert history.alerts() == []
        history.commit([_seen(3)])
        assert [one.exchange for one in history.samples()] == ["r3"]


def test_the_oldest_is_dropped_by_number_age_and_bytes_and_counted(tmp_path: Path) -> None:
    with _history(tmp_path / "number", max_rows=5, max_alerts=2) as history:
        history.commit([_seen(number, (number,)) for number in range(12)], [_alert(number) for number in range(4)])
        counts = history.counts()
        assert (counts["samples"], counts["dropped_samples"]) == (5, 7)
        assert (counts["alerts"], counts["dropped_alerts"]) == (2, 2)
        assert counts["oldest"] == 1007.0
        assert history.samples(feature=f"{URI}#3") == []
        assert len(history.samples(feature=f"{URI}#8")) == 1
    with _history(tmp_path / "age", retention_s=SOON - 1006.5) as history:
        history.commit([_seen(number) for number in range(12)])
        assert [one.exchange for one in history.samples()] == [f"r{number}" for number in range(11, 6, -1)]
    with _history(tmp_path / "bytes", max_bytes=1 << 20) as history:
        for start in range(0, 6000, 1000):
            history.commit([_seen(start + number, tuple(range(30))) for number in range(1000)])
            assert history.counts()["bytes"] <= 1 << 20
        assert history.counts()["dropped_samples"] > 0
        assert history.samples(limit=1)[0].exchange == "r5999"
    assert (tmp_path / "bytes" / DATABASE_NAME).stat().st_size < 3 << 20


def test_no_text_is_kept_unless_it_is_asked_for_and_then_without_what_is_to_be_hidden(tmp_path: Path) -> None:
    words = ("My", " number", " is", " 0151-234", " and", " key=", "sk-abcdefghijklmnopqrstuvwxyz0123456789", " Bob")
    with _history(tmp_path / "off") as history:
        history.commit([_seen(1, strings=words)])
        assert history.samples()[0].text is None
    assert b"0151" not in b"".join(path.read_bytes() for path in (tmp_path / "off").iterdir())
    config = HistoryConfig(keep_text=True, redact_patterns=(r"\d{4}-\d+",), text_characters=40)
    with History(tmp_path / "on", config, COLUMNS, lambda text: text.replace("Bob", "***"), lambda: SOON) as history:
        history.commit([_seen(1, strings=words), _seen(2, strings=("x",) * 100), _seen(3)])
        last, cut, redacted = history.samples()
    assert redacted.text is not None
    assert "My number is ***" in redacted.text
    assert not any(secret in redacted.text for secret in ("0151", "sk-abc", "Bob"))
    assert (cut.text, last.text) == ("x" * 40, None)
    with pytest.raises(ValidationError, match="no regular expression"):
        HistoryConfig(redact_patterns=("(",))


def test_one_process_writes_and_another_is_told_which_while_it_may_read(tmp_path: Path) -> None:
    with _history(tmp_path) as history:
        history.commit([_seen(1)])
        with pytest.raises(InputError, match="writes the history"):
            _history(tmp_path)
        code = (
            "import sys; from pathlib import Path; from mistudio.monitor.history.history import History\n"
            "print(len(History(Path(sys.argv[1]), read_only=True).samples()))\n"
            "try: History(Path(sys.argv[1]))\nexcept Exception as error: print(error)"
        )
        found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        count, message = found.stdout.splitlines()
        assert count == "1"
        assert f"Process {os.getpid()} writes" in message
    _history(tmp_path).close()


def test_threads_read_whole_commits_while_another_writes(tmp_path: Path) -> None:
    seen: list[int] = []
    with _history(tmp_path) as history:
        history.commit([_seen(0)])
        is_over = threading.Event()

        def read() -> None:
            while not is_over.is_set():
                seen.append(len(history.samples(limit=1000)))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for start in range(1, 400, 10):
            history.commit([_seen(start + number) for number in range(10)])
        is_over.set()
        for reader in readers:
            reader.join()
    assert seen
    assert {count % 10 for count in seen} == {1}


def test_another_version_a_broken_file_and_a_folder_that_is_none_are_told(tmp_path: Path) -> None:
    for version in (1, 99):  # 1 had names of columns alone
        _history(tmp_path / "other").close()
        with sqlite3.connect(tmp_path / "other" / DATABASE_NAME) as database:
            database.execute(f"PRAGMA user_version = {version}")
        database.close()
        with pytest.raises(InputError, match=f"version {version}, and this library reads version 2"):
            _history(tmp_path / "other")
        with sqlite3.connect(tmp_path / "other" / DATABASE_NAME) as database:
            database.execute("PRAGMA user_version = 2")
        database.close()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / DATABASE_NAME).write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="cannot be used"):
        _history(tmp_path / "broken")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be kept"):
        _history(tmp_path / "file")
    with pytest.raises(InputError, match="no history"):
        History(tmp_path / "none", read_only=True).samples()
