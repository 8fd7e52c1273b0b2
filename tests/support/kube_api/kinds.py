"""The kinds that the server knows: some of the core, and the custom ones whose CRDs lie beside the checkout."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

_CRDS = Path("shared") / "data" / "crds"
_FILES = ("inferenceservices.serving.kserve.io", "servingruntimes.serving.kserve.io") + (
    "trainjobs.trainer.kubeflow.org",
    "clustertrainingruntimes.trainer.kubeflow.org",
)


@dataclass(frozen=True)
class Kind:
    """A kind of object."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True
    has_status: bool = True
    schema: Any = None

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """The name in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


_CORE = (
    Kind("", "v1", "pods", "Pod"),
    Kind("", "v1", "events", "Event", has_status=False),
    Kind("", "v1", "configmaps", "ConfigMap", has_status=False),
    Kind("", "v1", "secrets", "Secret", has_status=False),
    Kind("", "v1", "services", "Service"),
)


def crds_folder() -> Path:
    """Where the CRDs are; the test is skipped where they are not."""
    for parent in Path(__file__).parents:
        if (parent / _CRDS).is_dir():
            return parent / _CRDS
    pytest.skip(f"there is no folder {_CRDS} beside the checkout, which has the CRDs")


@cache
def all_kinds() -> dict[tuple[str, str, str], Kind]:
    """By group, version and plural."""
    folder = crds_folder()
    known = [*_CORE, *(kind for name in _FILES for kind in _custom(folder / f"{name}.yaml"))]
    return {(each.group, each.version, each.plural): each for each in known}


def _custom(path: Path) -> list[Kind]:
    # The safe loader in C: the CRD of InferenceServices is 2 MB.
    spec = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)["spec"]
    return [
        Kind(
            spec["group"],
            version["name"],
            spec["names"]["plural"],
            spec["names"]["kind"],
            spec["scope"] == "Namespaced",
            "status" in version.get("subresources", {}),
            version["schema"]["openAPIV3Schema"],
        )
        for version in spec["versions"]
        if version["served"]
    ]
