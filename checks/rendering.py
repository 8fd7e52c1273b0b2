"""Manifests as a cluster gets them: overlays, and the parts that no overlay has, rendered by kubectl.

Rendering works on a copy, in which the secrets' examples stand for the secrets: the files of a checkout's own secrets
are never read.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from checks.outcome import Skipped
from checks.tools import ROOT, find, run

MANIFESTS = ROOT / "manifests"
OVERLAYS = ("kind", "microk8s", "production")
Document = dict[str, Any]

# What no overlay has, as kustomizations that the copy gets besides.
_MINIO = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../base]
components: [../../components/minio, ../../components/images]
"""
_CANARY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../serving/sample]
patches: [{path: canary.yaml}]
"""


def rendered() -> Mapping[str, list[Document]]:
    """The documents of each target, by its name.

    Raises:
        Skipped: there is no kubectl.
        RuntimeError: a target cannot be rendered.
    """
    return _rendered()


def everything() -> list[tuple[str, Document]]:
    """Each document once, with the place that messages name: the first target that has it, kind and name."""
    found: dict[str, tuple[str, Document]] = {}
    for target, documents in rendered().items():
        for document in documents:
            found.setdefault(json.dumps(document, sort_keys=True), (place(target, document), document))
    return list(found.values())


def place(target: str, document: Document) -> str:
    """What a message calls a document."""
    metadata = document.get("metadata", {})
    inside = f"{metadata['namespace']}/" if "namespace" in metadata else ""
    return f"{target}: {document['kind']} {inside}{metadata.get('name')}"


@functools.cache
def _rendered() -> dict[str, list[Document]]:
    kubectl = find("kubectl", "run `make check-tools`, or install kubectl 1.28 or newer")
    with tempfile.TemporaryDirectory() as folder:
        targets = _copy(Path(folder) / "manifests")
        return {name: _documents(kubectl, path) for name, path in targets.items()}


def _documents(kubectl: str, path: Path) -> list[Document]:
    done = run([kubectl, "kustomize", path])
    if done.returncode:
        if "unknown command" in done.stderr:
            message = f"{kubectl} has no `kustomize`: install kubectl 1.28 or newer"
            raise Skipped(message)
        message = f"{path.name} cannot be rendered: {done.stderr.strip()}"
        raise RuntimeError(message)
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


def _copy(folder: Path) -> dict[str, Path]:
    shutil.copytree(MANIFESTS, folder, ignore=shutil.ignore_patterns("secrets"))
    targets = {}
    for overlay in OVERLAYS:
        shutil.copytree(folder / "secrets.example", folder / "overlays" / overlay / "secrets")
        targets[overlay] = folder / "overlays" / overlay
    for sample in ("sample", "sample-correlate", "sample-monitor"):
        targets[sample] = folder / "serving" / sample
    targets["minio"] = _target(folder, "minio", {"kustomization.yaml": _MINIO})
    targets["canary"] = _target(folder, "canary", {"kustomization.yaml": _CANARY}, "canary.yaml")
    return targets


def _target(folder: Path, name: str, files: Mapping[str, str], patch: str | None = None) -> Path:
    path = folder / "checked" / name
    path.mkdir(parents=True)
    for file, content in files.items():
        (path / file).write_text(content)
    if patch:
        shutil.copy(folder / "serving" / "patches" / patch, path)
    return path
