"""The log of interventions: what was written stands, a kill costs at most the last line, and changes show."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from mistudio.artifacts import canonical_json
from mistudio.artifacts.chain import FIRST_HASH, chained
from mistudio.cli import app
from mistudio.errors import ConfigError, DamagedArtifact, InputError, NotFound, StorageError
from mistudio.instrument.edits import Edits
from mistudio.redaction import Secret
from mistudio.steer import audit
from mistudio.steer.audit import AuditLog
from mistudio.steer.audit_chain import Intervention, notes_of
from mistudio.steer.audit_files import rotated_path, rotated_paths, torn_path
from mistudio.steer.audit_verify import verify_log

EDITS = Edits.model_validate(
    {
        "edits": [
            {"op": "add", "feature": 12, "strength": 4.0, "unit": "feature_max", "autoencoder": "sae/a"},
            {"op": "ablate", "features": [3, 77]},
            {"op": "cap", "direction": "calm", "value": 2.5},
            {"op": "scale", "feature": 1, "factor": 0.0},
        ]
    }
)


def intervention(request: str = "r-1", **more: Any) -> Intervention:
    content = {"model": "tiny", "steering": "5" * 64, "prompt": "f" * 64, "outcome": "stop", **more}
    return Intervention.model_validate({"request": request, **content})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for each in (*rotated_paths(path), path) for line in each.read_bytes().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


@pytest.fixture
def written(path: Path) -> Path:
    """A log of five interventions."""
    log = AuditLog(path, fsync="never")
    for number in range(5):
        log.append(intervention(f"r-{number}"))
    return path


def test_each_line_holds_the_hash_over_the_one_before_and_itself(written: Path) -> None:
    previous = FIRST_HASH
    for number, line in enumerate(lines_of(written)):
        own = line.pop("hash")
        assert own == chained(previous, line)
        assert line["number"] == number
        previous = own
    assert AuditLog(written).head == previous
    assert verify_log(written) == ("intact", 6, 1, previous, 0, None, "")
    assert [line["record"] for line in lines_of(written)] == ["begin", *["intervention"] * 5]


def test_the_chain_can_be_checked_by_what_its_description_says_alone(written: Path) -> None:
    previous = "0" * 64
    for line in written.read_bytes().splitlines():
        record = json.loads(line)
        own = record.pop("hash")
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256((previous + text).encode()).hexdigest() == own
        previous = own


def test_an_intervention_is_written_with_all_that_it_is_and_without_its_prompt(path: Path) -> None:
    log = AuditLog(path, key=Secret("a key of the server"))
    prompt = "the cat sat"
    given = intervention(
        key="team", preset="calm", edits=notes_of(EDITS), prompt=log.prompt_digest(prompt), detail="repetition"
    )
    log.append(given)
    assert prompt.encode() not in path.read_bytes()
    (_, line) = lines_of(path)
    assert {name: line[name] for name in given.model_dump()} == json.loads(given.model_dump_json())
    assert [(note["op"], note["features"], note["strength"], note["unit"]) for note in line["edits"]] == [
        ("add", [12], 4.0, "feature_max"),
        ("ablate", [3, 77], None, None),
        ("cap", [], 2.5, "absolute"),
        ("scale", [1], 0.0, None),
    ]
    assert (line["edits"][0]["autoencoder"], line["edits"][2]["direction"]) == ("sae/a", "calm")
    assert line["time"].endswith("+00:00")


def test_digests_of_prompts_are_of_one_log_and_one_key(tmp_path: Path) -> None:
    one, other = AuditLog(tmp_path / "a.jsonl"), AuditLog(tmp_path / "b.jsonl")
    keyed = AuditLog(tmp_path / "a.jsonl", key=Secret("a key of the server"))
    digests = [log.prompt_digest("the cat") for log in (one, other, keyed)]
    assert len(set(digests)) == 3
    assert AuditLog(tmp_path / "a.jsonl").prompt_digest("the cat") == digests[0]
    assert one.prompt_digest([1, 2]) != one.prompt_digest("[1,2]")
    assert one.prompt_digest([{"role": "user", "content": "\ud800"}])


def test_what_a_line_cannot_hold_is_refused() -> None:
    for wrong in ({"request": ""}, {"outcome": "unknown"}, {"text": "a prompt"}, {"detail": "x" * 501}):
        with pytest.raises(ValidationError):
            intervention(**wrong)


CHANGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], int]] = {
    "a word": (lambda lines: [line.replace(b'"r-2"', b'"r-9"') for line in lines], 4),
    "white space": (lambda lines: [*lines[:3], lines[3].replace(b",", b", ", 1), *lines[4:]], 4),
    "one taken out": (lambda lines: [*lines[:2], *lines[3:]], 3),
    "two in another order": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
    "one twice": (lambda lines: [*lines[:3], *lines[2:]], 4),
    "no JSON": (lambda lines: [*lines[:3], b"x\n", *lines[4:]], 4),
    "another beginning": (lambda lines: [*lines[:3], lines[0], *lines[4:]], 4),
    "the last one changed": (lambda lines: [*lines[:5], lines[5].replace(b"tiny", b"huge")], 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_line_that_is_not_what_was_written_is_named(change: str, written: Path) -> None:
    alter, number = CHANGES[change]
    written.write_bytes(b"".join(alter(written.read_bytes().splitlines(keepends=True))))
    verdict = verify_log(written)
    assert (verdict.state, verdict.lines) == ("broken", number - 1)
    assert verdict.problem.startswith(f"audit.jsonl, line {number}: ")


def test_a_line_with_a_hash_made_anew_breaks_the_one_behind_it(written: Path) -> None:
    lines = lines_of(written)
    previous = lines[1]["hash"]
    forged = {name: value for name, value in {**lines[2], "model": "other"}.items() if name != "hash"}
    content = canonical_json({**forged, "hash": chained(previous, forged)})
    raw = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join([*raw[:2], content + b"\n", *raw[3:]]))
    assert verify_log(written).problem.startswith("audit.jsonl, line 4: it does not follow from the line before it")


def test_lines_taken_off_the_end_show_to_who_has_noted_a_hash(written: Path) -> None:
    noted = AuditLog(written).head
    AuditLog(written).append(intervention("later"))
    assert verify_log(written, noted)[0::5] == ("intact", 1)
    raw = written.read_bytes().splitlines(keepends=True)
    written.write_bytes(b"".join(raw[:4]))
    assert verify_log(written).state == "intact"
    verdict = verify_log(written, noted)
    assert verdict.state == "cut"
    assert "lines at the end are gone" in verdict.problem


DIES = """
import os, signal, sys
from pathlib import Path
from mistudio.steer.audit import AuditLog
from tests.unit.steer.test_audit import intervention
log, write = AuditLog(Path(sys.argv[1])), os.write
log.append(intervention("whole"))
def half(handle, line):
    write(handle, line[: len(line) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
log.append(intervention("torn"))
"""


def run(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[3])])}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def go(*processes: "subprocess.Popen[str]") -> None:
    """Let processes that are ready begin, all at once."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_a_process_that_is_killed_in_the_middle_of_a_write_costs_that_line_alone_and_it_is_said(path: Path) -> None:
    with run(DIES, path) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    verdict = verify_log(path)
    assert (verdict.state, verdict.lines) == ("torn", 2)
    assert verdict.problem == "audit.jsonl, line 3: the line has no end."
    half = path.read_bytes().rpartition(b"\n")[2]
    assert half
    log = AuditLog(path)
    log.append(intervention("after"))
    assert [line.get("request", line["record"]) for line in lines_of(path)] == ["begin", "whole", "recovered", "after"]
    said = lines_of(path)[2]
    assert (said["bytes"], said["kept_in"]) == (len(half), "audit.jsonl.torn-00000002")
    assert (path.parent / said["kept_in"]).read_bytes() == half
    assert verify_log(path)[:5] == ("intact", 4, 1, log.head, 1)


WRITES = """
import sys
from pathlib import Path
from mistudio.steer.audit import AuditLog
from tests.unit.steer.test_audit import intervention
log = AuditLog(Path(sys.argv[1]), fsync="never", max_bytes=int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    log.append(intervention(f"{sys.argv[4]}-{number}", detail="x" * (number % 7 * 70)))
    print(number, flush=True)
"""


def test_whenever_a_process_is_killed_every_line_that_it_said_it_had_written_is_there(path: Path) -> None:
    draw, before = random.Random(0), 0
    for turn in range(4):
        with run(WRITES, path, 100_000, 20_000, turn) as process:
            go(process)
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(draw.randrange(20, 60))]
            process.kill()
            told += process.stdout
        said = int(told[-1]) + 1
        AuditLog(path, max_bytes=20_000)
        assert verify_log(path).state == "intact"
        found = sum(line["record"] == "intervention" for line in lines_of(path)) - before
        assert said <= found <= said + 1  # one may be written that it had no time to tell of
        before += found
    assert len(rotated_paths(path)) > 1


def test_several_processes_and_threads_write_to_one_log_without_mixing(path: Path) -> None:
    processes = [run(WRITES, path, 200, 8_000, name) for name in "ab"]
    log = AuditLog(path, fsync="never", max_bytes=8_000)
    threads = [
        threading.Thread(target=lambda name=name: [log.append(intervention(f"{name}-{n}")) for n in range(200)])
        for name in "cd"
    ]
    go(*processes)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    requests = [line["request"] for line in lines_of(path) if line["record"] == "intervention"]
    assert sorted(requests) == sorted(f"{name}-{number}" for name in "abcd" for number in range(200))
    verdict = verify_log(path, log.head)
    assert (verdict.state, verdict.since) == ("intact", 0)
    assert verdict.files == len(rotated_paths(path)) + 1 > 3


def test_a_file_that_is_full_is_put_aside_and_the_chain_and_the_salt_go_on(path: Path) -> None:
    log = AuditLog(path, fsync="never", max_bytes=1500)
    digest = log.prompt_digest("the cat")
    for number in range(12):
        log.append(intervention(f"r-{number}"))
    aside = rotated_paths(path)
    assert [each.name for each in aside] == [f"audit.jsonl.{number:06d}" for number in range(1, len(aside) + 1)]
    assert len(aside) >= 3
    assert all(each.stat().st_size <= 1500 for each in (*aside, path))
    assert verify_log(path)[:3] == ("intact", 12 + len(aside) + 1, len(aside) + 1)
    again = AuditLog(path, fsync="never", max_bytes=1500)
    assert again.prompt_digest("the cat") == digest
    again.append(intervention("later"))
    log.append(intervention("and the first one goes on behind it"))
    assert verify_log(path, again.head).since == 0


def test_a_line_that_is_larger_than_a_file_may_be_has_one_of_its_own(path: Path) -> None:
    log = AuditLog(path, fsync="never", max_bytes=600)
    for number in range(3):
        log.append(intervention(f"r-{number}", detail="x" * 500))
    assert [len(each.read_bytes().splitlines()) for each in (*rotated_paths(path), path)] == [2, 2, 2]
    assert verify_log(path).state == "intact"


def test_a_kill_between_putting_a_file_aside_and_beginning_the_next_loses_nothing(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(written, max_bytes=1)

    def die(_path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audit, "sync", die)
        with pytest.raises(KeyboardInterrupt):
            log.append(intervention("lost with its process"))
    assert not written.exists()
    assert verify_log(written).state == "intact"
    AuditLog(written).append(intervention("next"))
    assert verify_log(written)[:3] == ("intact", 8, 2)


def test_a_kill_between_cutting_a_line_off_and_saying_so_is_made_good(written: Path) -> None:
    torn_path(written, 6).write_bytes(b'{"half')
    AuditLog(written)
    assert lines_of(written)[-1]["record"] == "recovered"
    assert lines_of(written)[-1]["bytes"] == 6
    AuditLog(written).append(intervention("next"))
    assert [line["record"] for line in lines_of(written)].count("recovered") == 1
    assert verify_log(written)[::4] == ("intact", 1)


def test_a_log_whose_first_line_was_torn_begins_anew_and_says_so(path: Path) -> None:
    AuditLog(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(InputError, match="line 1: this is no audit log: the line has no end"):
        verify_log(path)
    AuditLog(path)
    assert [line["record"] for line in lines_of(path)] == ["begin", "recovered"]
    assert (path.parent / lines_of(path)[1]["kept_in"]).read_bytes() == whole[:40]
    assert verify_log(path).state == "intact"


def test_another_writer_that_dies_in_a_line_is_mended_by_the_one_that_goes_on(written: Path) -> None:
    log = AuditLog(written)
    with written.open("ab") as file:
        file.write(b'{"detail":')
    log.append(intervention("on"))
    assert [line["record"] for line in lines_of(written)][-2:] == ["recovered", "intervention"]
    assert verify_log(written).state == "intact"


FILLS = """
import resource, signal, sys
from pathlib import Path
from mistudio.errors import StorageFull
from mistudio.steer.audit import AuditLog
from tests.unit.steer.test_audit import intervention
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
written = 0
try:
    while True:
        log.append(intervention(f"r-{written}"))
        written += 1
except StorageFull as error:
    print(written, error)
"""


def test_where_there_is_no_space_for_a_line_nothing_of_it_is_written(path: Path) -> None:
    """The system takes the first part of the line that passes the limit, and refuses the next."""
    output, _ = run(FILLS, path, 2100).communicate()
    number, _, message = output.partition(" ")
    assert message.startswith("No space left for the audit log")
    assert path.read_bytes().endswith(b"\n")
    assert path.stat().st_size < 2100
    assert verify_log(path)[:5] == ("intact", int(number) + 1, 1, AuditLog(path).head, 0)


def test_a_log_whose_end_is_none_is_not_gone_on_with(written: Path) -> None:
    with written.open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(DamagedArtifact, match="cannot be gone on with as an audit log: it is no object with a hash"):
        AuditLog(written)
    assert written.read_bytes().endswith(b"{}\n")


def test_a_file_is_not_put_aside_over_another(written: Path) -> None:
    rotated_path(written, 1).write_bytes(b"of somebody else")
    log = AuditLog(written, max_bytes=1)
    with pytest.raises(StorageError, match=r"there is a file audit\.jsonl\.000001"):
        log.append(intervention())
    assert rotated_path(written, 1).read_bytes() == b"of somebody else"


def test_a_link_is_not_written_through(written: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(written)
    before = written.read_bytes()
    with pytest.raises(StorageError, match="Cannot write the audit log"):
        AuditLog(link)
    assert written.read_bytes() == before


def test_earlier_files_that_are_missing_are_told_and_the_others_are_checked(path: Path) -> None:
    log = AuditLog(path, fsync="never", max_bytes=1500)
    for number in range(12):
        log.append(intervention(f"r-{number}"))
    first, second, *_ = rotated_paths(path)
    whole = verify_log(path).lines
    lost = len(first.read_bytes().splitlines())
    first.unlink()
    verdict = verify_log(path)
    assert (verdict.state, verdict.lines) == ("headless", whole - lost)
    assert verdict.problem == "Files 1 to 1 are not there: they were not checked."
    second.unlink()
    assert verify_log(path).state == "headless"


def test_a_file_that_is_missing_in_the_middle_breaks_the_chain(path: Path) -> None:
    log = AuditLog(path, fsync="never", max_bytes=1500)
    for number in range(12):
        log.append(intervention(f"r-{number}"))
    rotated_paths(path)[1].unlink()
    verdict = verify_log(path)
    assert verdict.state == "broken"
    assert verdict.problem.startswith("audit.jsonl.000003, line 1: it does not follow")


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no audit log"):
        verify_log(tmp_path / "none.jsonl")
    with pytest.raises(NotFound, match="There is no audit log"):
        verify_log(tmp_path)
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"")
    with pytest.raises(InputError, match="holds no line: this is no audit log"):
        verify_log(other)
    for content in (b"[]\n", b'{"hash": 1}\n', b"\xff\n", b'{"text": "a"}\n'):
        other.write_bytes(content)
        with pytest.raises(InputError, match=r"other\.jsonl, line 1: this is no audit log"):
            verify_log(other)


def test_a_head_that_is_no_hash_is_refused(written: Path) -> None:
    with pytest.raises(ConfigError, match="head '0123' is no hash"):
        verify_log(written, "0123")


def test_a_log_is_for_its_owner_alone(written: Path) -> None:
    assert written.stat().st_mode & 0o077 == 0


def test_the_command_says_what_was_found_and_ends_accordingly(written: Path) -> None:
    def run_command(*more: str) -> Any:
        return CliRunner().invoke(app, ["audit", "verify", str(written), *more])

    head = AuditLog(written).head
    done = run_command()
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"Head: {head}")
    assert done.stdout.startswith("Intact: 6 lines in 1 file. Whether lines at its end are gone cannot be seen")
    done = run_command("--head", head.upper())
    assert done.exit_code == 0
    assert "0 lines were written since" in done.stdout
    assert json.loads(run_command("--json").stdout)["state"] == "intact"
    raw = written.read_bytes()
    states = {3: raw.replace(b"r-2", b"r-9"), 4: raw[:-5], 5: b"".join(raw.splitlines(keepends=True)[:-1])}
    for code, content in states.items():
        written.write_bytes(content)
        assert run_command("--head", head).exit_code == code
    written.write_bytes(b"something else\n")
    assert isinstance(run_command().exception, InputError)
