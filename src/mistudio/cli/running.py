"""Running a pipeline with KFP's local runner: steps as child processes, one live view, one MLflow run."""

import contextlib
import datetime
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mistudio.artifacts import default_store_url, open_store, scratch_folder
from mistudio.cli.checkout import kfp_functions, signature
from mistudio.cli.display import Event, RunView, seconds_by_step
from mistudio.errors import MistudioError
from mistudio.progress import EVENTS_ENV
from mistudio.tracking import Run, pipeline_run

_LOG_TAIL_LINES = 25
_HEADLINES = ("explained_variance", "fvu", "l0", "dead_fraction", "ce_recovered", "kl", "ce_clean", "ce_spliced")

_SCORED = ("interpretable", "explained", "dead", "dense", "program_f1", "shuffled_f1")


class PipelineFailed(MistudioError):
    """A step failed; the message is the step's own."""

    def __init__(self, message: str, exit_code: int, finished: list[Event]) -> None:
        super().__init__(message)
        self.exit_code, self.finished = exit_code, finished


def run_locally(pipeline: Any, name: str, values: dict[str, object]) -> list[Event]:
    """Run a pipeline; return the closing events of its steps, in the order they came.

    Raises:
        PipelineFailed: a step failed; it has the events of those that ended well.
    """
    # Refuses a folder that cannot be written, before anything starts.
    store = open_store(str(values.get("store") or default_store_url())).url
    values["store"] = store
    folder = scratch_folder(store) / "runs" / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    folder.mkdir(parents=True)
    log = folder / "steps.log"
    with pipeline_run(name, store) as run:
        run.log_params({key: value for key, value in _all_values(pipeline, values).items() if value not in ("", -1)})
        with RunView(folder / "events.jsonl") as view, _events_to(folder / "events.jsonl"):
            try:
                _run_logged(pipeline, values, folder / "kfp", log)
            except Exception as error:
                failure = _failure(view, log, error)
                _log_results(run, failure.finished)
                raise failure from error
        _log_results(run, view.finished)
    return view.finished


def _run_logged(pipeline: Any, values: dict[str, object], root: Path, log: Path) -> None:
    """Run with everything that KFP and the steps print in the log; progress and errors come as events."""
    with log.open("w", encoding="utf-8") as handle, contextlib.redirect_stdout(handle):
        kfp_functions().run_here(pipeline, values, root)


def _failure(view: RunView, log: Path, error: Exception) -> PipelineFailed:
    """The messages of the steps that failed; for anything else the end of the log."""
    view.read()
    killed = [{**event, "message": "ended without a result: was it killed?"} for event in view.running.values()]
    failed = "\n".join(_failed_line(event) for event in [*view.failures, *killed])
    if failed and not killed and all(event["exit_code"] != 1 for event in view.failures):
        return PipelineFailed(failed, view.failures[0]["exit_code"], view.finished)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    return PipelineFailed(f"The pipeline failed: {failed or error}\n{tail}\nThe whole log: {log}", 1, view.finished)


def _failed_line(event: Event) -> str:
    about = f" ({event['about']})" if event["about"] else ""
    return f"{event['step']}{about}: {event['message']}"


def _all_values(pipeline: Any, values: dict[str, object]) -> dict[str, object]:
    return {name: values.get(name, parameter.default) for name, parameter in signature(pipeline).items()}


def _log_results(run: Run, finished: list[Event]) -> None:
    """Put the run's figures, times and artifacts where two runs can be compared."""
    last = {event["step"]: event for event in finished}
    measured = last.get("compare") or last.get("evaluate")
    run.log_metrics({name: measured["summary"].get(name) for name in _HEADLINES} if measured else {})
    run.log_metrics({name: last["score"]["summary"].get(name) for name in _SCORED} if "score" in last else {})
    run.log_metrics({f"seconds.{step}": seconds for step, seconds in seconds_by_step(finished).items()})
    repeated = {event["step"] for event in finished if event is not last[event["step"]]}
    for step, event in last.items():
        if step not in repeated:  # a sweep's autoencoders have runs of their own
            uri, digest, found = event["uri"], event["digest"], event["found"]
            run.set_tags({f"{step}.uri": uri, f"{step}.digest": digest, f"{step}.found": found})


@contextlib.contextmanager
def _events_to(path: Path) -> Iterator[None]:
    os.environ[EVENTS_ENV] = str(path)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    # The steps run with this interpreter's packages, wherever the command was called from.
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        del os.environ[EVENTS_ENV]
        os.environ["PATH"] = before
