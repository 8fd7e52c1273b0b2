"""Documents against schemas: core kinds by kubernetes-validate, custom ones by CRDs, the gateway's by npm models."""

import functools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

from checks.outcome import Skipped
from checks.rendering import Document, everything
from checks.tools import ROOT, TOOLS, find, run, shared

KUBERNETES = "1.33"
_GATEWAY_GROUPS = ("gateway.networking.k8s.io", "gateway.envoyproxy.io")
_CORE_GROUPS = ("", "apps", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "autoscaling")


class _Loader(yaml.CSafeLoader):  # type: ignore[misc]  # it comes without types
    """YAML in which a bare `=` is a text, as one CRD has it."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def group_of(document: Document) -> str:
    """The API group; empty for the core one."""
    return str(document["apiVersion"]).rpartition("/")[0]


def look_core() -> tuple[str, Sequence[str]]:
    """Core kinds, fields that are not known included."""
    program = find("kubernetes-validate", "run `make check-tools`")
    documents = [document for _, document in everything() if group_of(document) in _CORE_GROUPS]
    return f"{len(documents)} objects, Kubernetes {KUBERNETES}", core_problems(program, documents)


def core_problems(program: str, documents: Sequence[Document]) -> list[str]:
    """What Kubernetes' own schemas do not allow."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "all.yaml").write_text(yaml.safe_dump_all(documents))
        done = run([program, "-k", KUBERNETES, "--strict", "--quiet", "all.yaml"], folder=Path(folder))
    return [line for line in (done.stdout + done.stderr).splitlines() if line]


def look_crds() -> tuple[str, Sequence[str]]:
    """Kinds whose CRDs are at hand, fields that are not known included."""
    shared("data", "crds")
    problems: list[str] = []
    count = 0
    for place, document in everything():
        if group_of(document) in (*_CORE_GROUPS, *_GATEWAY_GROUPS):
            continue
        schema = crd_schema(group_of(document), document["apiVersion"].rpartition("/")[2], document["kind"])
        count += 1
        if schema is None:
            problems.append(f"{place}: there is no CRD of it in shared/data/crds")
        else:
            problems += [f"{place}: {problem}" for problem in problems_of(document, schema)]
    return f"{count} objects", problems


def problems_of(document: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    """What a schema of a CRD does not allow, and what the API server would drop in silence."""
    for error in jsonschema_rs.validator_for(dict(schema)).iter_errors(document):
        yield f"{'.'.join(map(str, error.instance_path))}: {error.message}"
    yield from _unknown(document, schema, "")


def _unknown(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _unknown(each, schema.get("items", {}), f"{path}[{number}]")
    elif isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        properties = schema.get("properties")
        others = schema.get("additionalProperties")
        for name, each in value.items():
            if properties and name in properties:
                yield from _unknown(each, properties[name], f"{path}.{name}")
            elif isinstance(others, dict):
                yield from _unknown(each, others, f"{path}.{name}")
            elif properties:
                yield f"{path}.{name} is not known"


@functools.cache
def crd_schema(group: str, version: str, kind: str) -> Mapping[str, Any] | None:
    """The schema of a kind; its metadata are any.

    Raises:
        Skipped: there are no CRDs here.
    """
    for path in sorted(shared("data", "crds").glob(f"*.{group}.yaml")):
        spec = yaml.load(path.read_text(), _Loader)["spec"]  # noqa: S506 -- a safe loader's child
        if spec["names"]["kind"] == kind:
            schemas = {each["name"]: each["schema"]["openAPIV3Schema"] for each in spec["versions"]}
            properties = {**schemas[version]["properties"], "metadata": {"type": "object"}}
            return {**schemas[version], "properties": properties}
    return None


def look_gateway() -> tuple[str, Sequence[str]]:
    """Kinds of the Gateway API and of Envoy Gateway, by models that are generated from their sources."""
    node = find("node", "install Node.js 20 or newer")
    if not (TOOLS / "node_modules" / "@kubernetes-models" / "envoy-gateway").is_dir():
        message = "npm models are missing: run `make check-tools` where npm is"
        raise Skipped(message)
    named = [(place, document) for place, document in everything() if group_of(document) in _GATEWAY_GROUPS]
    return f"{len(named)} objects", gateway_problems(node, named)


def gateway_problems(node: str, named: Sequence[tuple[str, Document]]) -> list[str]:
    """What the models do not allow, by place."""
    script = (ROOT / "checks" / "gateway.mjs").read_text()
    given = json.dumps([{"place": place, "document": document} for place, document in named])
    done = run([node, "--input-type=module", "--eval", script], given=given, folder=TOOLS)
    if done.returncode:
        message = f"node failed: {done.stderr[-500:]}"
        raise RuntimeError(message)
    return done.stdout.splitlines()
