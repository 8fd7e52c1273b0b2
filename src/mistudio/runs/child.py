"""The first process of a run: ``python -P -m mistudio.runs.child FOLDER [--attached]``.

It does what the folder's request asks for, and writes down how that ended. When it is told to end, it ends the
processes of its steps too. With ``--attached`` it is told so also by the end of its standard input, which its starter
holds open: whoever watches a run takes it along, even where they are killed.
"""

import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from mistudio.errors import MistudioError
from mistudio.redaction import redact
from mistudio.runs.folder import Outcome, Request, RunFolder
from mistudio.runs.processes import ATTACHED, end_members
from mistudio.stopping import Stopped, stoppable

_GRACE_S = 15.0


def main(arguments: list[str]) -> int:
    """Do a run; the exit code is that of its outcome."""
    folder = RunFolder(Path(arguments[0]))
    folder.write_process_group()
    request = folder.request()
    try:
        with stoppable():
            if ATTACHED in arguments:
                threading.Thread(target=_end_with_starter, daemon=True).start()
            _work(request, folder)
        outcome = Outcome(state="finished", exit_code=0, artifacts=folder.made())
    except Stopped:
        outcome = Outcome(state="cancelled", exit_code=Stopped.exit_code, artifacts=folder.made())
        end_members(os.getpgrp(), folder.events, _GRACE_S)
    except Exception as error:
        outcome = _failed(request.target.kind, folder, error)
        if not isinstance(error, MistudioError):
            traceback.print_exception(error)
    except BaseException as error:  # what ends a process has an outcome too
        folder.write_outcome(_failed(request.target.kind, folder, RuntimeError(f"{type(error).__name__}: {error}")))
        raise
    folder.write_outcome(outcome)
    return outcome.exit_code


def _work(request: Request, folder: RunFolder) -> None:
    if request.target.kind == "pipeline":
        from mistudio.runs.pipelines import run_pipeline

        run_pipeline(request.target.name, dict(request.settings), request.store, folder)
    else:
        from mistudio.steps import call, named, own_process, run_all

        step = named(request.target.name)
        has_store = any(option.name == "store" for option in step.options)
        own_process(step.name)
        do = run_all if step.output else call
        do(step.name, **request.settings, **({"store": request.store} if has_store else {}))


def _failed(what: str, folder: RunFolder, error: Exception) -> Outcome:
    from mistudio.runs.outcome import failure, step_states

    message, exit_code = failure(what, step_states(folder.events), folder.log, error)
    return Outcome(state="failed", exit_code=exit_code, message=redact(message), artifacts=folder.made())


def _end_with_starter() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads that are in the middle of a pipeline's step are not waited for
