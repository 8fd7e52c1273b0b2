"""Told to end, a command ends with all that it started, and says in one line how to go on."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mistudio.cli import running
from mistudio.cli.going_on import KEPT
from mistudio.runs import LocalRunner
from mistudio.stopping import Stopped, stoppable

COMMAND = """
import sys, time
from mistudio import cli, parallel
from mistudio.cli.going_on import goes_on
from mistudio.progress import progress
from mistudio.stopping import stoppable
parallel.num_cores = lambda: 2

def work(item):
    print(item, flush=True)
    time.sleep(120)

@cli.app.command("alone")
def alone():
    with goes_on(), stoppable():
        print("begun", flush=True)
        time.sleep(120)

@cli.app.command("workers")
def workers():
    with goes_on(), stoppable():
        list(parallel.in_parallel(work, range(40)))

@cli.app.command("background")
def background():
    with goes_on(), parallel.in_background(lambda: work(1)) as result:
        result()

@cli.app.command("short")
def short():
    with progress("Read", 10, "documents") as bar:
        bar.advance(10)

sys.argv[0] = "mistudio"
cli.main()
"""


def start(command: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MISTUDIO_EVENTS"}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("command", ["alone", "workers", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_command_that_is_ended_says_one_line_and_leaves_no_process(
    command: str, number: signal.Signals, whole_group: bool
) -> None:
    if whole_group and command == "background":
        pytest.skip("as workers")
    process = start(command)
    assert process.stdout is not None
    assert process.stdout.readline()
    (os.killpg if whole_group else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=60)  # which waits for all that has its standard error
    assert errors == f"Ended by {number.name}. {KEPT}\n"
    assert process.returncode == 128 + number


def test_a_step_tells_how_far_it_is_where_there_is_no_terminal() -> None:
    _, errors = start("short").communicate(timeout=60)
    assert errors.strip() == "Read: 10 of 10 documents"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped()])
def test_a_run_that_is_watched_ends_with_who_watches_it(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cancelled: list[str] = []

    def events(_: str, *, follow: bool) -> Iterator[Any]:
        raise error
        yield

    runner: Any = SimpleNamespace(start=lambda *_: SimpleNamespace(id="7"), events=events, cancel=cancelled.append)
    with pytest.raises(type(error)) as raised:
        running.run_locally(runner, "interpret", {})
    assert cancelled == ["7"]
    assert raised.value.__notes__ == [KEPT]
    assert "Ending the run" in capsys.readouterr().err


def test_a_librarys_caller_keeps_ctrl_c_and_signals_of_others() -> None:
    assert LocalRunner  # which a program may hold meanwhile
    before = signal.getsignal(signal.SIGINT)
    with stoppable():
        assert signal.getsignal(signal.SIGINT) is before
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(stoppable(interrupts=True).__enter__()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
