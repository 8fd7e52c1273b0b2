"""Pods, and why they do not run: what Kubernetes says of them, and the last that they printed."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mistudio.cluster.api import Cluster
from mistudio.cluster.resources import PODS, Object
from mistudio.errors import ClusterError

_FORBIDDEN = 403
_LINES = 20
_WAITS = frozenset({"ContainerCreating", "PodInitializing", ""})  # what every pod says at first


class Ended(NamedTuple):
    """A container that has ended."""

    pod: str
    container: str
    exit_code: int
    why: str


def trouble(cluster: Cluster, namespace: str, labels: Mapping[str, str]) -> str:
    """Why pods with these labels do not run, with the last lines of one; empty where all do, or none may be seen.

    Raises:
        ClusterError: the API cannot be reached.
    """
    try:
        for pod in cluster.find(PODS, namespace, labels):
            if said := next(_troubles(pod), ""):
                name, container = pod["metadata"]["name"], said.partition(":")[0]
                return f"pod {name}, {said}{last_lines(cluster, namespace, name, container)}"
    except ClusterError as error:
        if error.status != _FORBIDDEN:
            raise
    return ""


def last_lines(cluster: Cluster, namespace: str, pod: str, container: str, lines: int = _LINES) -> str:
    """The last lines of a container's log, on lines of their own; empty where there are none.

    Raises:
        ClusterError: the API refuses, or cannot be reached.
    """
    text = cluster.pod_log(namespace, pod, container, tail_lines=lines)
    kept = [line.partition(" ")[2] for line in text.splitlines()]
    return f"\nThe last lines of {pod}:\n  " + "\n  ".join(kept) if kept else ""


def ended(pod: Object) -> Iterator[Ended]:
    """The containers of a pod that ended with an error."""
    for each in _statuses(pod):
        state = each.get("state", {}).get("terminated") or {}
        if state.get("exitCode"):
            why = str(state.get("reason") or "Error")
            yield Ended(pod["metadata"]["name"], str(each["name"]), int(state["exitCode"]), why)


def _troubles(pod: Object) -> Iterator[str]:
    for each in (pod.get("status") or {}).get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            yield f"not scheduled: {each.get('message') or each.get('reason')}"
    for each in _statuses(pod):
        waiting = each.get("state", {}).get("waiting") or {}
        last = each.get("state", {}).get("terminated") or each.get("lastState", {}).get("terminated") or {}
        if waiting.get("reason", "") not in _WAITS:
            yield f"{each['name']}: {waiting['reason']} {waiting.get('message') or ''}".rstrip()
        elif last.get("exitCode"):
            yield f"{each['name']}: ended with status {last['exitCode']} ({last.get('reason') or 'Error'})"


def _statuses(pod: Object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or []
    return found
