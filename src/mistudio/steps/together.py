"""A step in several processes of one machine or pod, one a GPU: what ``torchrun`` starts on the command line.

A component is one process. Where ``MISTUDIO_NUM_PROCESSES`` says so, it starts torchrun, whose processes each do the
step with the same settings (``python -m mistudio.steps.together FOLDER``); they find each other through its environment
(see :mod:`mistudio.sae.workers`). The first tells how it went, and so does each that fails.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistudio.artifacts import open_artifact, open_store
from mistudio.errors import ConfigError, MistudioError
from mistudio.events import EVENTS_ENV, Failed, append
from mistudio.parallel import num_cores
from mistudio.plain_text import shortened
from mistudio.steps import running
from mistudio.steps.output import StepOutput
from mistudio.steps.registry import STEPS
from mistudio.steps.spec import Step
from mistudio.stopping import stoppable

logger = logging.getLogger("mistudio.together")

NUM_ENV = "MISTUDIO_NUM_PROCESSES"
_AUTO = "auto"
_MOST = 64
_GRACE_S = 40.0  # torchrun gives its processes 30 seconds to end
_REQUEST, _RESULT = "request.json", "result.json"


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
        (folder / _REQUEST).write_text(json.dumps({"step": step.name, "values": values}), encoding="utf-8")
        code = _wait_for(_command(folder, count), count)
        result = _read(folder / _RESULT)
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
    return [*torchrun, "--nproc-per-node", str(count), "-m", "mistudio.steps.together", str(folder)]


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
    told = [each for rank in range(count) if (each := _read(folder / _error_name(rank))) is not None]
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
    return json.loads(path.read_bytes()) if path.exists() else None  # type: ignore[no-any-return]


def _error_name(rank: int) -> str:
    return f"error-{rank}.json"


def _work(folder: Path) -> int:
    """Do the step as one of the processes; the exit code."""
    from mistudio.sae.workers import WorkerFailed  # imports torch, which who starts them has no use for
    from mistudio.steps import own_process

    rank, events = int(os.environ["RANK"]), os.environ.get(EVENTS_ENV)
    _tell_as(rank)
    request = json.loads((folder / _REQUEST).read_bytes())
    own_process(request["step"])
    try:
        output = running.run(STEPS[request["step"]], request["values"])
    except MistudioError as error:
        of_another = isinstance(error, WorkerFailed)
        content = {"message": str(error), "exit_code": error.exit_code, "of_another": of_another}
        _write(folder / _error_name(rank), content)
        logger.error("%s", error)
        if rank and events and not of_another:
            append(Path(events), Failed(message=str(error), exit_code=error.exit_code, step=request["step"]))
        return error.exit_code
    if rank == 0:
        result = {"uri": output.artifact.uri, "found": output.found, "seconds": output.seconds}
        _write(folder / _RESULT, result)
    return 0


def _tell_as(rank: int) -> None:
    """Only the first process tells whoever follows the run, and MLflow, how far it is; in a log, each has a number."""
    logging.basicConfig(format=f"process {rank}: %(message)s")
    logging.getLogger("mistudio").setLevel(logging.WARNING if rank else logging.INFO)
    if rank:
        os.environ.pop(EVENTS_ENV, None)
        os.environ["MISTUDIO_TRACKING"] = "off"


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file at once: who reads it may come in the middle."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1])))
