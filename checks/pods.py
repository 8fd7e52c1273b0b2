"""Pods in manifests: found in whatever makes them, and held against Pod Security `restricted`.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/, baseline and restricted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from checks.rendering import Document, everything

Spec = Mapping[str, Any]
_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_HOST = ("hostNetwork", "hostPID", "hostIPC")


class Pod(NamedTuple):
    """A pod, and where it stands."""

    place: str
    spec: Spec


def pods() -> list[Pod]:
    """Every pod that the manifests make, by themselves or through KServe."""
    return [pod for place, document in everything() for pod in pods_of(place, document)]


def pods_of(place: str, document: Document) -> Iterator[Pod]:
    """The pods that a document makes."""
    spec = document.get("spec") or {}
    kind = document["kind"]
    if kind == "Pod":
        yield Pod(place, spec)
    elif kind in ("Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"):
        yield Pod(place, spec["template"]["spec"])
    elif kind == "CronJob":
        yield Pod(place, spec["jobTemplate"]["spec"]["template"]["spec"])
    elif kind in ("ServingRuntime", "ClusterServingRuntime"):
        yield Pod(place, spec)


def containers_of(spec: Spec) -> Iterator[Mapping[str, Any]]:
    """All containers of a pod."""
    for key in _CONTAINERS:
        yield from spec.get(key) or ()


def look() -> tuple[str, Sequence[str]]:
    """All pods against the standard."""
    found = pods()
    return f"{len(found)} pods", [f"{pod.place}: {problem}" for pod in found for problem in problems_of(pod.spec)]


def problems_of(spec: Spec) -> Iterator[str]:
    """What keeps a pod out of a namespace that enforces `restricted`, or is writable that need not be."""
    yield from (f"{key} is set" for key in _HOST if spec.get(key))
    for volume in spec.get("volumes") or ():
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed: {', '.join(kinds - _VOLUMES)}"
    pod = spec.get("securityContext") or {}
    yield from (f"{key} is set" for key in ("sysctls", "hostProcess") if pod.get(key))
    yield from _context_problems("the pod", pod)
    for container in containers_of(spec):
        own = container.get("securityContext") or {}
        yield from (f"{container['name']}: {problem}" for problem in _container_problems(container, own, pod))


def _container_problems(container: Mapping[str, Any], own: Spec, pod: Spec) -> Iterator[str]:
    yield from _context_problems("it", own)
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield "runAsNonRoot is not true"
    if "ALL" not in ((own.get("capabilities") or {}).get("drop") or ()):
        yield "not all capabilities are dropped"
    if set((own.get("capabilities") or {}).get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if not own.get("seccompProfile", pod.get("seccompProfile")):
        yield "seccompProfile is not set"
    if not own.get("readOnlyRootFilesystem"):
        yield "the root file system is writable"  # beyond the standard: the project's own rule
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield "a port of the host is taken"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"


def _context_problems(who: str, context: Spec) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield f"{who} runs as user 0"
    if (context.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield f"{who} has no seccomp profile"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in ("RuntimeDefault", "Localhost"):
        yield f"{who} has no AppArmor profile"
    if context.get("seLinuxOptions"):
        yield f"{who} sets SELinux options"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{who} is a host process"
