"""The steps of a run on a cluster, told from the nodes of its workflow.

Kubeflow shows every node that the workflow engine makes of a pipeline: of the task ``train`` there is ``train-driver``,
which looks at the inputs and the cache, then ``train``, and in it ``executor``, the pod that does the work, or nothing
where the cache had the output. A loop repeats the nodes of its tasks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mistudio.runs.cluster import ClusterTask, TaskState
from mistudio.steps import STEPS

_DRIVER = "-driver"
_EXECUTOR = re.compile(r"executor(\(\d+\))?")
_REPEATED = re.compile(r"-\d+$")
_NUMBER = re.compile(r"(\d+)$")  # of a node; the names of a pod and of its node both end with it


@dataclass(frozen=True)
class StepTask:
    """A step of a run on a cluster.

    Attributes:
        step: its name.
        state: what became of it.
        from_cache: Kubeflow took its output from an earlier run, and no pod was started.
        started: when; None: not yet.
        ended: when; None: not yet.
        message: why it failed, where Kubeflow knows.
        pods: those that did the work, the last try last; empty where Kubeflow does not say.
    """

    step: str
    state: TaskState
    from_cache: bool
    started: datetime | None
    ended: datetime | None
    message: str
    pods: tuple[str, ...]


def step_tasks(tasks: Iterable[ClusterTask]) -> list[StepTask]:
    """The steps of a run by their start, those that wait last."""
    nodes = list(tasks)
    by_number = {number: node for node in nodes if (number := _number(node.pod))}
    steps = [_step(name, node, by_number) for node in nodes if (name := step_name(node.name))]
    begun = {step.step for step in steps}
    waiting = [_driven(name, node) for node in nodes if (name := _driver_of(node)) and name not in begun]
    return sorted(steps + waiting, key=_begun)


def step_name(task: str) -> str:
    """The step that a task of a pipeline does; empty: none. A pipeline that has a step twice numbers its tasks."""
    name = task if task.replace("-", "_") in STEPS else _REPEATED.sub("", task)
    name = name.replace("-", "_")
    return name if name in STEPS else ""


def _step(name: str, node: ClusterTask, by_number: dict[str, ClusterTask]) -> StepTask:
    inside = [by_number[number] for child in node.children if (number := _number(child)) in by_number]
    executors = _tries([each for each in inside if _EXECUTOR.fullmatch(each.name)], by_number)
    from_cache = bool(executors) and node.state == "finished" and all(each.state == "skipped" for each in executors)
    message = node.message or next((each.message for each in reversed(executors) if each.message), "")
    pods = tuple(each.pod for each in executors if each.state not in ("skipped", "pending"))
    return StepTask(name, node.state, from_cache, node.started, node.ended, message, pods)


def _tries(executors: Sequence[ClusterTask], by_number: dict[str, ClusterTask]) -> list[ClusterTask]:
    """The pods: a node that tries its pod several times has one child for each."""
    found: list[ClusterTask] = []
    for node in executors:
        within = [by_number[number] for child in node.children if (number := _number(child)) in by_number]
        tries = [each for each in within if _EXECUTOR.fullmatch(each.name) and each is not node]
        found += sorted(tries, key=lambda each: each.name) if tries else [node]
    return found


def _driven(name: str, driver: ClusterTask) -> StepTask:
    """A step whose inputs are being looked at, or could not be."""
    state: TaskState = driver.state if driver.state in ("failed", "skipped", "cancelled") else "pending"
    return StepTask(name, state, False, None, driver.ended, driver.message, (driver.pod,) if driver.pod else ())


def _driver_of(node: ClusterTask) -> str:
    return step_name(node.name.removesuffix(_DRIVER)) if node.name.endswith(_DRIVER) else ""


def _number(node: str) -> str:
    found = _NUMBER.search(node)
    return found.group(1) if found else ""


def _begun(step: StepTask) -> tuple[bool, float]:
    return step.started is None, step.started.timestamp() if step.started else 0.0
