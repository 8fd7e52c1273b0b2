"""The nodes of a run as Kubeflow's compiler and Argo make them of a pipeline.

Of a task ``train`` there are ``train-driver``, then ``train``, and in it ``executor``, the pod. Of a loop there are
``iteration-driver`` and one ``iteration-item`` for each turn. A node's id ends with the number that its pod's name
ends with; children are given by ids.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import kfp_server_api

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Node:
    """One node of a workflow."""

    def __init__(self, name: str, number: int, template: str, workflow: str) -> None:
        self.name, self.number = name, number
        self.id = f"{workflow}-{number}"
        self.pod = f"{workflow}-{template}-{number}"
        self.state = "PENDING"
        self.started = self.ended = _NEVER
        self.children: list[Node] = []
        self.message = ""

    def become(self, state: str, message: str = "") -> None:
        self.state, self.message = state, message
        now = datetime.now(UTC)
        if state != "PENDING" and self.started == _NEVER:
            self.started = now
        if state not in ("PENDING", "RUNNING"):
            self.ended = now

    def detail(self, run_id: str, *, names_pods: bool) -> Any:
        error = kfp_server_api.GoogleRpcStatus(code=2, message=self.message) if self.message else None
        return kfp_server_api.V2beta1PipelineTaskDetail(
            run_id=run_id,
            task_id=f"00000000-0000-4000-8000-{self.number:012d}",
            display_name=self.name,
            create_time=self.started,
            start_time=self.started,
            end_time=self.ended,
            state=self.state,
            error=error,
            pod_name=self.pod if names_pods else None,
            child_tasks=[kfp_server_api.PipelineTaskDetailChildTask(pod_name=each.id) for each in self.children],
        )


class TaskNodes(NamedTuple):
    """The three nodes of a task."""

    driver: Node
    task: Node
    executor: Node


class Workflow:
    """The nodes of one run."""

    def __init__(self, pipeline: str, run_id: str) -> None:
        self.name = f"{pipeline}-{run_id[:5]}"
        self.run_id = run_id
        self.nodes: list[Node] = []
        self.tasks: list[TaskNodes] = []
        self._node("root-driver", "system-dag-driver").become("SUCCEEDED")
        self._root = self._node("root", "root")
        self._root.become("RUNNING")

    def begin(self, task: str) -> TaskNodes:
        """The driver has looked at the inputs, and the pod starts."""
        made = TaskNodes(
            self._node(f"{task}-driver", "system-container-driver"),
            self._node(task, "system-container-executor"),
            self._node("executor", "system-container-impl"),
        )
        made.driver.children.append(made.task)
        made.task.children.append(made.executor)
        made.driver.become("SUCCEEDED")
        made.task.become("RUNNING")
        made.executor.become("RUNNING")
        self.tasks.append(made)
        return made

    def wait_for_inputs(self, task: str) -> Node:
        """The driver looks at the inputs."""
        driver = self._node(f"{task}-driver", "system-container-driver")
        driver.become("RUNNING")
        return driver

    def take_from_cache(self, task: str) -> TaskNodes:
        """The driver found the output of an earlier run: the pod is left out."""
        made = self.begin(task)
        made.executor.become("SKIPPED")
        made.task.become("SUCCEEDED")
        return made

    def end(self, made: TaskNodes, state: str, message: str = "") -> None:
        made.executor.become(state, message)
        made.task.become(state)

    def try_again(self, made: TaskNodes) -> Node:
        """The pod failed, and the engine starts another: the executor becomes a node with one child a try."""
        first, second = (self._node(f"executor({turn})", "system-container-impl") for turn in range(2))
        first.become("FAILED", "main: Error (exit code 1)")
        second.become("RUNNING")
        made.executor.children += [first, second]
        return second

    def running(self, task: str) -> TaskNodes:
        """The first of the tasks of that name that goes on."""
        return next(each for each in self.tasks if each.task.name == task and each.task.state == "RUNNING")

    def close(self, state: str) -> None:
        for node in self.nodes:
            if node.state in ("PENDING", "RUNNING"):
                node.become(state)

    def _node(self, name: str, template: str) -> Node:
        node = Node(name, 1_000_000 + 7919 * len(self.nodes), template, self.name)
        self.nodes.append(node)
        return node
