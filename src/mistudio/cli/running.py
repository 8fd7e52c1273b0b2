"""``mistudio run``: a pipeline as a run on this machine, with a live view until it ends."""

from contextlib import suppress

from mistudio.cli.display import RunView
from mistudio.cli.going_on import AGAIN, KEPT
from mistudio.errors import InputError, MistudioError
from mistudio.events import Finished
from mistudio.runs import LocalRunner, Run, Settings, Target
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
        with RunView() as view:
            for event in runner.events(run.id, follow=True):
                view.take(event)
    except (KeyboardInterrupt, Stopped) as stopped:
        echo("Ending the run.", err=True)
        stopped.add_note(KEPT)
        with suppress(InputError):  # it has ended in the meantime
            runner.cancel(run.id)
        raise
    ended = runner.get(run.id)
    if ended.state != "finished":
        raise PipelineFailed(_reason(ended), ended.exit_code or 1, view.steps.finished, ended.seconds)
    return view.steps.finished, ended.seconds


def _reason(run: Run) -> str:
    if run.state == "failed":
        return run.message
    what = "was cancelled" if run.state == "cancelled" else "ended without a result: was it killed?"
    return f"Run {run.id} {what}. {AGAIN}\nThe whole log: {run.log}"
