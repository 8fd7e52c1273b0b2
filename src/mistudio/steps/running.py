"""Running a step, however it was started: opening its inputs, timing, tracking, and telling who follows."""

import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mistudio.artifacts import Produced, open_artifact, record_action
from mistudio.errors import ConfigError, MistudioError
from mistudio.events import Failed, Started, emit, working_on
from mistudio.heap import release_freed_memory
from mistudio.steps.context import Context
from mistudio.steps.given import check, configure, sort_given
from mistudio.steps.logged import log_output, log_to_pipeline
from mistudio.steps.output import StepOutput
from mistudio.steps.records import keep
from mistudio.steps.registry import STEPS
from mistudio.steps.spec import NO_ARTIFACT, Asked, Inputs, Step
from mistudio.stopping import stoppable
from mistudio.tracking import Run, step_run
from mistudio.tracking.kubeflow import pipeline_run_id
from mistudio.tracking.views import PIPELINE

if TYPE_CHECKING:
    from mistudio.explain.keeping import Base


def run(step: Step, values: Mapping[str, Any]) -> StepOutput:
    """Run a step that publishes one artifact.

    Args:
        step: its declaration.
        values: inputs (URIs, several with commas between them or as a list) and options by name; None: not given.

    Raises:
        ConfigError: a name is unknown, or a value is refused.
        MistudioError: the step cannot be done as asked.
    """
    if step.output is not None and step.output.many:
        message = f"{step.name} publishes several artifacts: use run_all."
        raise ConfigError(message)
    (output,) = run_all(step, values)
    return output


def run_all(step: Step, values: Mapping[str, Any]) -> list[StepOutput]:
    """Run a step that publishes one artifact or several; see :func:`run`.

    A step that was found published opens no MLflow run, so that repeating a pipeline stays quick.
    """
    if step.output is None:
        message = f"{step.name} publishes nothing: use call."
        raise ConfigError(message)
    given = sort_given(step, values)
    about, store_url = step.about(values), str(given.own.get("store") or "")
    started = time.monotonic()
    with _reported(step.name, about, store_url), stoppable():
        emit(Started())
        with step_run(step.command, store_url, f"{step.command} {about}".strip()) as run:
            context = Context(step, store_url, run, given.own, given.loading, given.runtime)
            inputs = _open_inputs(context, given.inputs)
            made = step.run(context, inputs, configure(step, context, inputs, given.content))
            release_freed_memory()  # importing MLflow takes more than a small step does
            produced, name = (made, "train") if isinstance(made, list) else ([made], step.name)
            seconds = round(time.monotonic() - started, 3)
            outputs = [StepOutput(name, each.artifact, each.found, seconds) for each in produced]
            for each in outputs:
                if not each.found:
                    record_action(context.store, "publish", each.artifact.uri, each.artifact.digest, step=step.command)
            if isinstance(made, Produced):
                _log(run, outputs[0], step)
        for output in outputs:
            event = output.event()
            emit(event)
            keep(store_url, event)
    return outputs


def _log(run: Run, output: StepOutput, step: Step) -> None:
    """Log what was made to the step's run, and on Kubeflow, where nobody else does, what is there to the pipeline's."""
    if not output.found:
        log_output(run, output, step)
    root = pipeline_run_id() if os.environ.get("RANK", "0") == "0" else ""
    if root and (pipeline := run.above(root)) is not None:
        pipeline.set_tags({PIPELINE: "on Kubeflow"})
        log_to_pipeline(pipeline, output)
        pipeline.finish()


def newest_base(step: Step, values: Mapping[str, Any]) -> "Base | None":
    """The artifact that a step's work on a selection is best added to; None without one, or a selection.

    Raises:
        ConfigError: a name is unknown, or a value is refused.
        MistudioError: the step cannot be done as asked.
    """
    if step.newest_base is None or check(step, values).config.only is None:
        return None
    given = sort_given(step, values)
    store_url = str(given.own.get("store") or "")
    run = Run(step.command, store_url)  # nothing is logged to it
    context = Context(step, store_url, run, given.own, given.loading, given.runtime)
    inputs = _open_inputs(context, given.inputs)
    return step.newest_base(context, inputs, configure(step, context, inputs, given.content))


def call(step: Step, values: Mapping[str, Any]) -> Any:
    """Run a step that publishes nothing, and return its value; see :func:`run`."""
    if step.output is not None:
        message = f"{step.name} publishes what it makes: use run_step, or run_all."
        raise ConfigError(message)
    given = sort_given(step, values)
    store_url = str(given.own.get("store") or "")
    with _reported(step.name, step.about(values), store_url), stoppable(), step_run(step.command, store_url) as run:
        context = Context(step, store_url, run, given.own, given.loading, given.runtime)
        inputs = _open_inputs(context, given.inputs)
        return step.run(context, inputs, configure(step, context, inputs, given.content))


def check_together(takes: Mapping[str, Mapping[str, str]], values: Mapping[str, object]) -> dict[str, Asked]:
    """Refuse what one of a pipeline's steps would refuse; what each was asked for.

    Args:
        takes: by step, what it calls an option -> what the pipeline calls it.
        values: the pipeline's parameters, where -1 and the empty text stand for None.

    Raises:
        ConfigError: a value is refused, alone or beside another.
        SubjectError: the model cannot be loaded so on this machine.
    """
    asked: dict[str, Asked] = {}
    for name, of in takes.items():
        step = STEPS[name]
        options = {leaf.name: leaf for leaf in step.options}
        given = {own: options[own].plain(values[called]) for own, called in of.items() if called in values}
        asked[name] = check(step, given, of)
    for name, each in asked.items():
        if (refuse := STEPS[name].check) is not None:
            refuse(each, asked)
    return asked


def _open_inputs(context: Context, given: Mapping[str, Sequence[str]]) -> Inputs:
    kinds = {each.name: each.kind for each in context.step.inputs}
    optional = {each.name for each in context.step.inputs if each.optional}
    declined = frozenset(name for name in optional if list(given[name]) == [NO_ARTIFACT])
    wanted = {name: () if name in declined else uris for name, uris in given.items()}
    return Inputs(
        {name: tuple(open_artifact(context.store, uri, kinds[name]) for uri in uris) for name, uris in wanted.items()},
        declined,
    )


@contextmanager
def _reported(step: str, about: str, store_url: str) -> Iterator[None]:
    """Tell whoever follows the run which step is at work, and how it failed."""
    with working_on(step, about):
        try:
            yield
        except Exception as error:
            if isinstance(error, MistudioError):
                message, exit_code = str(error), error.exit_code
            else:
                raised = "".join(traceback.format_exception_only(error)).strip()
                message, exit_code = f"internal error: {raised}", 1
            event = Failed(message=message, exit_code=exit_code)
            emit(event)
            keep(store_url, event)
            raise
