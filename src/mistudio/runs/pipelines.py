"""Running a pipeline with KFP's local runner, in the process of a run: steps as child processes, one MLflow run."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mistudio.artifacts import open_artifact, open_to_read
from mistudio.errors import MistudioError
from mistudio.events import Finished
from mistudio.runs.checkout import kfp_functions, load_pipeline, signature
from mistudio.runs.folder import RunFolder
from mistudio.runs.outcome import seconds_by_step, step_states
from mistudio.steps.logged import log_to_pipeline
from mistudio.steps.naming import facts, finished_title, pipeline_title
from mistudio.steps.output import StepOutput
from mistudio.tracking import Run, pipeline_run
from mistudio.tracking.views import PIPELINE


def run_pipeline(name: str, settings: dict[str, Any], store: str, folder: RunFolder) -> None:
    """Run a pipeline to its end; its figures, also those of a run that fails, go to its MLflow run."""
    pipeline = load_pipeline(name)
    values = {**settings, "store": store}
    _say_time(pipeline, settings, store)
    with pipeline_run(name, store, pipeline_title(name, values)) as run:
        run.set_tags({PIPELINE: name})
        run.log_params({key: value for key, value in _all_values(pipeline, values).items() if value not in ("", -1)})
        try:
            _interruptible(lambda: kfp_functions().run_here(pipeline, values, folder.kfp))
        finally:
            _log_results(run, store, step_states(folder.events).finished)


def _say_time(pipeline: Any, settings: dict[str, Any], store: str) -> None:
    """Say how long it will take; what stands in the way of that is for the steps to say."""
    from mistudio.artifacts import open_store
    from mistudio.steps.ahead import say_time_ahead

    with suppress(MistudioError):
        say_time_ahead(kfp_functions().function_of(pipeline).takes, settings, open_store(store))


def _interruptible(work: Callable[[], object]) -> None:
    """Do the work on another thread: the main one only waits, and a signal ends that at once.

    KFP would go on with the next step of a loop where one is interrupted.
    """
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=do, name="pipeline", daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _all_values(pipeline: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {name: values.get(name, parameter.default) for name, parameter in signature(pipeline).items()}


def _log_results(run: Run, store_url: str, finished: list[Finished]) -> None:
    """Put the run's figures, times and artifacts where two runs can be compared."""
    if not finished or not run.is_tracked:
        return
    store = open_to_read(store_url)
    last = {event.step: event for event in finished}
    repeated = {event.step for event in finished if event is not last[event.step]}
    for step, event in last.items():
        if step not in repeated:  # a sweep's autoencoders have runs of their own
            with suppress(MistudioError):  # it was removed since
                made = StepOutput(step, open_artifact(store, event.uri), event.found, event.seconds)
                log_to_pipeline(run, made)
    run.log_metrics({f"seconds.{step}": seconds for step, seconds in seconds_by_step(finished).items()})
    if trained := [event for event in finished if event.step == "train"]:
        with suppress(MistudioError):
            known = facts(open_artifact(store, trained[-1].uri))
            run.rename(finished_title(run.name, known, len(trained)))
