"""What objects name of each other is there: accounts, roles, config maps, secrets and their keys, claims, ports."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checks.pods import Spec, containers_of, pods_of
from checks.rendering import OVERLAYS, Document, rendered

Keys = Mapping[tuple[str, str, str], frozenset[str]]
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def look() -> tuple[str, Sequence[str]]:
    """Each overlay by itself."""
    problems = [f"{name}: {problem}" for name in OVERLAYS for problem in problems_of(rendered()[name])]
    return f"{len(OVERLAYS)} overlays", problems


def problems_of(documents: Sequence[Document]) -> Iterator[str]:
    """Names that stand for nothing, among the objects of one cluster."""
    keys = _keys(documents)
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        for pod in pods_of(name, document):
            namespace = document["metadata"]["namespace"]
            yield from (f"{name}: there is no {missing}" for missing in _missing(pod.spec, namespace, keys))
            yield from (f"{name}: {problem}" for problem in _ports(pod.spec))
            yield from (f"{name}: {problem}" for problem in _mounts(document, pod.spec))
        if document["kind"] == "Service":
            yield from (f"{name}: {problem}" for problem in _service(document, documents))
        if document["kind"] == "RoleBinding":
            yield from (f"{name}: there is no {missing}" for missing in _binding(document, keys))


def _keys(documents: Sequence[Document]) -> Keys:
    """The keys of what can be named, by kind, namespace and name."""
    return {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): frozenset(
            each.get("data") or ()
        )
        for each in documents
    }


def _missing(spec: Spec, namespace: str, keys: Keys) -> Iterator[str]:
    account = spec.get("serviceAccountName", "default")
    if ("ServiceAccount", namespace, account) not in keys:
        yield f"service account {account}"
    for volume in spec.get("volumes") or ():
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        wanted = {"PersistentVolumeClaim": claim, "ConfigMap": volume.get("configMap", {}).get("name")}
        wanted["Secret"] = volume.get("secret", {}).get("secretName")
        for kind, name in wanted.items():
            if name and (kind, namespace, name) not in keys:
                yield f"{kind} {name}"
    for container in containers_of(spec):
        for variable in container.get("env") or ():
            yield from _unset(variable.get("valueFrom") or {}, namespace, keys)


def _unset(source: Mapping[str, Any], namespace: str, keys: Keys) -> Iterator[str]:
    for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if field in source:
            name, key = source[field]["name"], source[field]["key"]
            if key not in keys.get((kind, namespace, name), ()):
                yield f"{kind} {name} with a key {key}"


def _ports(spec: Spec) -> Iterator[str]:
    for container in containers_of(spec):
        ports = container.get("ports") or ()
        known = {port["containerPort"] for port in ports} | {port.get("name") for port in ports}
        for probe in _PROBES:
            asked = container.get(probe, {}).get("httpGet", {}).get("port")
            if asked is not None and asked not in known:
                yield f"{probe} asks port {asked}, at which nothing listens"


def _mounts(document: Document, spec: Spec) -> Iterator[str]:
    claims = document["spec"].get("volumeClaimTemplates") or ()
    known = {each["name"] for each in spec.get("volumes") or ()} | {each["metadata"]["name"] for each in claims}
    for container in containers_of(spec):
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in known:
                yield f"{container['name']} mounts {mount['name']}, which is no volume"


def _service(service: Document, documents: Sequence[Document]) -> Iterator[str]:
    selector = service["spec"]["selector"]
    chosen = [
        each["spec"]["template"]["spec"]
        for each in documents
        if each["kind"] in ("Deployment", "StatefulSet")
        and each["metadata"]["namespace"] == service["metadata"]["namespace"]
        and selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    ]
    if not chosen:
        yield f"no pod has the labels {selector}"
    for spec in chosen:
        ports = [port for container in containers_of(spec) for port in container.get("ports") or ()]
        known = {port["containerPort"] for port in ports} | {port.get("name") for port in ports}
        wanted = {port["targetPort"] for port in service["spec"]["ports"]}
        yield from (f"leads to port {port}, at which nothing listens" for port in sorted(wanted - known, key=str))


def _binding(binding: Document, keys: Keys) -> Iterator[str]:
    namespace = binding["metadata"]["namespace"]
    role = binding["roleRef"]
    if (role["kind"], namespace, role["name"]) not in keys:
        yield f"{role['kind']} {role['name']}"
    for subject in binding["subjects"]:
        if (subject["kind"], subject["namespace"], subject["name"]) not in keys:
            yield f"account {subject['namespace']}/{subject['name']}"
