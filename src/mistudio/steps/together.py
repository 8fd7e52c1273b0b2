"""A step in several processes of one machine or pod, one a GPU: what ``torchrun`` starts on the command line.

A component is one process. Where ``MISTUDIO_NUM_PROCESSES`` says so, it starts torchrun, whose processes each do the
step with the same settings (:mod:`mistudio.steps.one_of_many`); they find each other through its environment (see
:mod:`mistudio.sae.workers`). The first tells how it went, and so does each that fails.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio.artifacts import open_artifact, open_store
from mistudio.errors import ConfigError, MistudioError
from mistudio.parallel import num_cores
from mistudio.plain_text import shortened
from mistudio.steps import running
from mistudio.steps.output import StepOutput
from mistudio.steps.spec import Step
from mistudio.stopping import stoppable

NUM_ENV = "MISTUDIO_NUM_PROCESSES"
_AUTO = "auto"
_MOST = 64
_GRACE_S = 40.0  # torchrun gives its processes 30 seconds to end
REQUEST, RESULT = "request.json", "result.json"  # files that the processes are given, and leave


class ProcessFailed(MistudioError):
    """One of the processes of a step failed, or was killed."""


def run_together(step: Step, values: Mapping[str, Any]) -> StepOutput:
    """Run a step in as many processes as ``MISTUDIO_NUM_PROCESSES`` says; see :func:`mistudio.steps.running.run`.

    Raises:
        ConfigError: a name is unknown, a value is refused, or that is no number of processes.
        MistudioError: the step cannot be done as asked, or a process of it was killed.
    """
    count = wanted_processes()
    if count == 1 or "WORLD_SIZE" in os.environ:
        return running.run(step, values)
    with tempfile.TemporaryDirectory(prefix="mistudio-together-") as name:
        folder = Path(name)
        (folder / REQUEST).write_text(json.dumps({"step": step.name, "values": values}), encoding="utf-8")
        code = _wait_for(_command(folder, count), count)
        result = _read(folder / RESULT)
        if code or result is None:
            raise _failure(folder, step, count)
    artifact = open_artifact(open_store(str(values.get("store") or "")), result["uri"])
    return StepOutput(step.name, artifact, result["found"], result["seconds"])


def wanted_processes() -> int:
    """How many processes are to train together: ``auto`` is one a GPU; one, if nothing is said.

    Raises:
        ConfigError: it is no number of processes.
    """
    asked = os.environ.get(NUM_ENV, "") or "1"
    if asked == _AUTO:
        from mistudio.subject.devices import list_gpus

        return max(len(list_gpus()), 1)
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked[:9]) <= _MOST):
        message = f"{NUM_ENV} is {shortened(asked)}: use a number of processes from 1 to {_MOST}, or {_AUTO}."
        raise ConfigError(message)
    return int(asked)


def _command(folder: Path, count: int) -> list[str]:
    """Torchrun on this machine alone, for processes that take no modules from the working folder."""
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*torchrun, "--nproc-per-node", str(count), "-m", "mistudio.steps.one_of_many", str(folder)]


def _wait_for(command: list[str], count: int) -> int:
    """Run torchrun to its end; if this process is told to end, its processes are too."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": str(max(num_cores() // count, 1))}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name need not be known to anybody
    with stoppable(), subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment) as process:  # noqa: S603
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _failure(folder: Path, step: Step, count: int) -> ProcessFailed:
    """What went wrong: the error that the others ended for, where a process could still say it."""
    told = [each for rank in range(count) if (each := _read(folder / error_name(rank))) is not None]
    own = next((each for each in told if not each["of_another"]), None)
    if own is None:
        message = (
            f"One of the {count} processes of {step.name} ended without a word: was it killed for want of memory? What "
            "is done is kept: run the same again to go on."
        )
        return ProcessFailed(message)
    error = ProcessFailed(own["message"])
    error.exit_code = own["exit_code"]
    return error


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_bytes()) if path.exists() else None


def error_name(rank: int | str) -> str:
    """The file that a process leaves where it fails."""
    return f"error-{rank}.json"
