"""One of the processes that do a step together: ``python -m mistudio.steps.one_of_many FOLDER``, started by torchrun.

The folder holds what is asked for. The first process leaves there what came of it, and each that fails its message.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from mistudio.errors import MistudioError
from mistudio.events import EVENTS_ENV, Failed, append
from mistudio.sae.workers import WorkerFailed
from mistudio.steps import own_process, run_step
from mistudio.steps.together import REQUEST, RESULT, error_name

_PATIENCE_S = 5.0
_POLL_S = 0.05


def _work(folder: Path) -> int:
    """Do the step as one of the processes; the exit code."""
    rank, events = int(os.environ["RANK"]), os.environ.get(EVENTS_ENV)
    _tell_as(rank)
    request = json.loads((folder / REQUEST).read_bytes())
    own_process(request["step"])
    try:
        output = run_step(request["step"], **request["values"])
    except MistudioError as error:
        of_another = isinstance(error, WorkerFailed)
        content = {"message": str(error), "exit_code": error.exit_code, "of_another": of_another}
        _write(folder / error_name(rank), content)
        logging.getLogger(__name__).error("%s", error)
        if of_another:
            _let_it_speak(folder)
        if rank and events and not of_another:
            append(Path(events), Failed(message=str(error), exit_code=error.exit_code, step=request["step"]))
        return error.exit_code
    if rank == 0:
        result = {"uri": output.artifact.uri, "found": output.found, "seconds": output.seconds}
        _write(folder / RESULT, result)
    return 0


def _tell_as(rank: int) -> None:
    """Only the first process tells whoever follows the run, and MLflow, how far it is; in a log, each has a number."""
    logging.basicConfig(format=f"process {rank}: %(message)s")
    logging.getLogger("mistudio").setLevel(logging.WARNING if rank else logging.INFO)
    if rank:
        os.environ.pop(EVENTS_ENV, None)
        os.environ["MISTUDIO_TRACKING"] = "off"


def _let_it_speak(folder: Path) -> None:
    """Wait until the process that failed has said why, if it was not killed: torchrun ends all as soon as one ends."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if any(not json.loads(path.read_bytes())["of_another"] for path in folder.glob(error_name("*"))):
            return
        time.sleep(_POLL_S)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file at once: who reads it may come in the middle."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1])))
