"""The processes of a run, told from others, and ended."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistudio.events import EVENTS_ENV
from mistudio.runs.processes import end_members, members

STUBBORN = "trap '' TERM; echo ready; while true; do sleep 0.1; done"


@contextmanager
def group(events: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, EVENTS_ENV: str(events)}
    process = subprocess.Popen(
        ["sh", "-c", script], env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_process_that_does_not_end_when_it_is_asked_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    with group(tmp_path / "events", STUBBORN) as process:
        assert process.pid in {member.pid for member in members(process.pid, tmp_path / "events")}
        end_members(process.pid, tmp_path / "events", grace_s=0.3)
        assert list(members(process.pid, tmp_path / "events")) == []
        assert process.wait() == -9


def test_processes_of_another_run_are_left_alone(tmp_path: Path) -> None:
    with group(tmp_path / "events", STUBBORN) as process:
        end_members(process.pid, tmp_path / "other", grace_s=0)
        assert process.poll() is None
