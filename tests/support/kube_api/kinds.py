"""The kinds that the server knows: some of the core, and the custom ones whose CRDs lie beside the checkout."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

_CRDS = Path("shared") / "data" / "crds"


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


def find_kind(group: str, version: str, plural: str) -> Kind | None:
    """A kind that the cluster has."""
    known = _CORE if not group else _custom(f"{plural}.{group}")
    return next((each for each in known if (each.group, each.version, each.plural) == (group, version, plural)), None)


def named(plural: str) -> Kind:
    """A kind by its plural alone, in the version that is kept."""
    if found := [each for each in _CORE if each.plural == plural]:
        return found[0]
    (path,) = crds_folder().glob(f"{plural}.*.yaml")
    return _custom(path.stem)[-1]


@cache
def _custom(name: str) -> tuple[Kind, ...]:
    """Read a CRD when it is first asked for: that of InferenceServices has 2 MB."""
    path = crds_folder() / f"{name}.yaml"
    if not path.exists():
        return ()
    spec = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)["spec"]
    return tuple(
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
    )
