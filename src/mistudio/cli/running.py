"""A pipeline as a run on this machine or elsewhere, with a live view until it ends."""

from contextlib import suppress

from mistudio.cli.display import RunView
from mistudio.cli.going_on import AGAIN, KEPT
from mistudio.errors import InputError, MistudioError
from mistudio.events import Finished
from mistudio.runs import LocalRunner, Run, Runner, Settings, Target
from mistudio.stopping import Stopped
from mistudio.terminal import echo


class PipelineFailed(MistudioError):
    """A step failed; the message is the step's own."""

    def __init__(self, message: str, exit_code: int, finished: list[Finished], seconds: float | None) -> None:
        super().__init__(message)
        self.exit_code, self.finished, self.seconds = exit_code, finished, seconds


def run_locally(runner: LocalRunner, name: str, settings: Settings) -> tuple[list[Finished], float | None]:
    """Run a pipeline and show how it goes; return what its steps ended with, in that order, and its seconds in all.

    Raises:
        PipelineFailed: a step failed, or the run was cancelled; it has the events of the steps that ended well.
        KeyboardInterrupt: the user interrupted it; the run has ended by then.
        Stopped: this process was told to end; the run has ended by then.
    """
    run = runner.start(Target(kind="pipeline", name=name), settings)
    try:
        finished = _show(runner, run)
    except (KeyboardInterrupt, Stopped) as stopped:
        echo("Ending the run.", err=True)
        stopped.add_note(KEPT)
        with suppress(InputError):  # it has ended in the meantime
            runner.cancel(run.id)
        raise
    return _ended_well(runner.get(run.id), finished)


def follow(runner: Runner, run: Run) -> tuple[list[Finished], float | None]:
    """Show how a run elsewhere goes until it ends; see :func:`run_locally`. Who stops to look does not end it.

    Raises:
        PipelineFailed: a step failed, or the run was cancelled.
    """
    try:
        _show(runner, run)
    except (KeyboardInterrupt, Stopped) as stopped:
        stopped.add_note(f"The run goes on: mistudio status {run.id} shows it, mistudio cancel {run.id} ends it.")
        raise
    # What was taken from a cache is told by nobody while the run goes on.
    return _ended_well(runner.get(run.id), list(runner.finished(run.id)))


def ended_badly(run: Run, finished: list[Finished]) -> PipelineFailed:
    """The error that says how a run ended that did not end well."""
    return PipelineFailed(_reason(run), run.exit_code or 1, finished, run.seconds)


def _show(runner: Runner, run: Run) -> list[Finished]:
    with RunView() as view:
        for event in runner.events(run.id, follow=True):
            view.take(event)
    return view.steps.finished


def _ended_well(run: Run, finished: list[Finished]) -> tuple[list[Finished], float | None]:
    if run.state != "finished":
        raise ended_badly(run, finished)
    return finished, run.seconds


def _reason(run: Run) -> str:
    if run.state == "failed":
        return run.message
    what = "was cancelled" if run.state == "cancelled" else "ended without a result: was it killed?"
    log = f"\nThe whole log: {run.log}" if run.log else ""
    return f"Run {run.id} {what}. {AGAIN}{log}"
