"""What became of the steps of a run, from its events, and what to say where one did not end well."""

from pathlib import Path

from mistudio.errors import MistudioError
from mistudio.events import Event, EventReader, Failed, Finished, Started
from mistudio.steps import STEPS

_LOG_TAIL_LINES = 25
_KILLED = "ended without a result: was it killed?"
_Step = tuple[int, str, str]


class StepStates:
    """The steps of a run: those that ended well, those that failed, and those under way."""

    def __init__(self) -> None:
        self.finished: list[Finished] = []
        self.failures: list[Failed] = []
        self.running: dict[_Step, Started] = {}

    def take(self, event: Event) -> None:
        """Take in what happened next."""
        step = (event.pid, event.step, event.about)
        if isinstance(event, Started):
            self.running[step] = event
        elif isinstance(event, Finished | Failed):
            self.running.pop(step, None)
            if isinstance(event, Finished):
                self.finished.append(event)
            else:
                self.failures.append(event)


def step_states(events: Path) -> StepStates:
    """What the events of a run say of its steps."""
    steps = StepStates()
    for event in EventReader(events).read():
        steps.take(event)
    return steps


def seconds_by_step(finished: list[Finished]) -> dict[str, float]:
    """Seconds that each step took, all its runs together."""
    seconds: dict[str, float] = {}
    for event in finished:
        seconds[event.step] = round(seconds.get(event.step, 0) + event.seconds, 3)
    return seconds


def failure(what: str, steps: StepStates, log: Path, error: BaseException) -> tuple[str, int]:
    """What to say of a pipeline or a step (``what``) that failed, and the exit code.

    Those are the messages of the steps that failed, where there are any. Of a step that was killed, and of an error
    that was not meant, the end of the log is shown too.
    """
    if not steps.failures and isinstance(error, MistudioError):
        return str(error), error.exit_code
    killed = [_line(event, _KILLED) for event in steps.running.values()]
    lines = [*(_line(event, event.message) for event in steps.failures), *killed]
    failed = "\n".join(dict.fromkeys(lines))  # processes that train together may all fail for one reason
    if failed and not killed and all(event.exit_code != 1 for event in steps.failures):
        return failed, steps.failures[0].exit_code
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    return f"The {what} failed: {failed or error}\n{tail}\nThe whole log: {log}", 1


def _line(event: Started | Failed, text: str) -> str:
    if event.step in STEPS and STEPS[event.step].output is None:  # its message speaks for itself
        return text
    about = f" ({event.about})" if event.about else ""
    return f"{event.step}{about}: {text}"
