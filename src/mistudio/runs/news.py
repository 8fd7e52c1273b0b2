"""What is new of a run on a cluster since it was last looked at, as the events that runs on this machine tell.

The states of tasks say when a step begins, and how it ends; what it has kept in the store says with what.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from mistudio.artifacts import Artifact, Store, ancestry, open_artifact
from mistudio.errors import GateFailed, MistudioError
from mistudio.events import Event, Failed, Finished, Message, Started
from mistudio.runs.cluster import ClusterRun
from mistudio.runs.run import State
from mistudio.runs.tasks import StepTask, step_tasks
from mistudio.steps import STEPS

_GATE = "fail_gate"
_CANCELLED = 143  # as a process that was told to end
_SILENT = "its pod ended without a word: was it killed, or could it not start? mistudio logs shows what it printed"


class News:
    """Remembers what was told of a run."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._read: set[str] = set()

    def of(self, run: ClusterRun, kept: Mapping[str, Event]) -> Iterator[Event]:
        """What is new, in the order in which it can have happened.

        Args:
            run: as Kubeflow has it.
            kept: what its steps have kept, by the names of the files.
        """
        tasks = step_tasks(run.tasks)
        yield from self._starts(tasks)
        for name, event in kept.items():
            if name not in self._read:
                self._read.add(name)
                yield event
        yield from self._ends(tasks, kept)

    def _starts(self, tasks: list[StepTask]) -> Iterator[Event]:
        begun = Counter(task.step for task in tasks if task.started is not None)
        for step, count in (begun - self._begun).items():
            times = sorted(task.started.timestamp() for task in tasks if task.step == step and task.started)
            yield from (Started(step=step, pid=0, time=time) for time in times[-count:])
        self._begun |= begun

    def _ends(self, tasks: list[StepTask], kept: Mapping[str, Event]) -> Iterator[Event]:
        """What ended without keeping how: taken from Kubeflow's cache, killed, or the store cannot be read here."""
        ended = Counter((task.step, _how(task)) for task in tasks if task.state in ("finished", "failed"))
        told = Counter((event.step, _how_kept(event)) for event in kept.values())
        for (step, how), count in (ended - told - self._ended).items():
            for _ in range(count):
                yield _untold(step, how, next(task for task in tasks if (task.step, _how(task)) == (step, how)))
            self._ended[step, how] += count


def failures(run: ClusterRun, kept: Mapping[str, Event]) -> list[Failed]:
    """The steps that failed and were not done again with success."""
    last = {event.step: event for event in kept.values() if isinstance(event, Finished | Failed)}
    failed = [event for event in last.values() if isinstance(event, Failed)]
    named = {event.step for event in failed}
    return failed + [
        Failed(step=task.step, pid=0, message=task.message or _SILENT, exit_code=_code_of(task.step))
        for task in step_tasks(run.tasks)
        if task.state == "failed" and task.step not in named
    ]


def exit_code(state: State, run: ClusterRun, kept: Mapping[str, Event]) -> int | None:
    """The exit status that a run of this machine would have ended with; None while it goes on."""
    if state == "finished":
        return 0
    if state == "cancelled":
        return _CANCELLED
    if state != "failed":
        return None
    codes = [event.exit_code for event in failures(run, kept)]
    return 1 if 1 in codes or not codes else codes[0]


def finished_events(kept: Mapping[str, Event], store: "Callable[[], Store] | None" = None) -> Iterator[Finished]:
    """What the steps published; of a step that was done again, the last.

    Args:
        kept: what they have kept.
        store: opens the store, to look for what was taken from Kubeflow's cache: the artifacts that others were made
            from tell what it was. None: that is not looked for.
    """
    events = [event for event in kept.values() if isinstance(event, Finished)]
    last = {(event.step, event.uri): event for event in events}
    if store is not None and last:
        yield from _from_cache(store(), list(last.values()))
    yield from last.values()


def _from_cache(store: Store, events: list[Finished]) -> Iterator[Finished]:
    known = {event.uri for event in events}
    try:
        found = ancestry(store, {event.uri: open_artifact(store, event.uri) for event in events})
    except MistudioError:  # they are gone from the store since
        return
    for node in found.nodes.values():
        if node.artifact is not None and node.artifact.uri not in known and _step_of(node.artifact) in STEPS:
            artifact, step = node.artifact, _step_of(node.artifact)
            summary = dict(artifact.manifest.summary)
            yield Finished(
                step=step, pid=0, uri=artifact.uri, digest=artifact.digest, found=True, seconds=0.0, summary=summary
            )


def _step_of(artifact: Artifact) -> str:
    return artifact.manifest.producer.step.replace("-", "_")


def _how(task: StepTask) -> str:
    return "cached" if task.from_cache else task.state


def _how_kept(event: Event) -> str:
    return "failed" if isinstance(event, Failed) else "finished"


def _untold(step: str, how: str, task: StepTask) -> Event:
    time = task.ended.timestamp() if task.ended else None
    when = {} if time is None else {"time": time}
    if how == "failed":
        return Failed(step=step, pid=0, message=task.message or _SILENT, exit_code=_code_of(step), **when)
    text = f"{step}: taken from Kubeflow's cache" if how == "cached" else f"{step}: done"
    return Message(step=step, pid=0, text=text, **when)


def _code_of(step: str) -> int:
    return GateFailed.exit_code if step == _GATE else 1
