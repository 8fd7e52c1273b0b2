"""What the features were made from, read from the manifests: corpus and subject, activations, SAE, features.

Inputs inside the store are followed to their own inputs. What lies outside it (a model folder, a text
file), or was removed from it since, is shown by its name and digest alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from mistudio.artifacts import Artifact, JsonScalar, Store, ancestry
from mistudio.artifacts import graph as graph_module
from mistudio.errors import DamagedArtifact
from mistudio.report.metrics import write_value

_TITLES = {"sae": "SAE"}
_NOTES = {"outside": "outside the store", "gone": "no longer in the store"}
# What to show first where there is room for little; the rest follows by name.
_FIRST = (
    "interpretable",
    "explained",
    "documents",
    "tokens",
    "rows",
    "features",
    "width",
    "architecture",
    "k",
    "explained_variance",
    "l0",
    "dead",
)
_FIGURES_SHOWN = 3
_SHORT_DIGEST = 10

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Node:
    """One artifact, or one thing outside the store, that the features depend on."""

    key: str
    title: str  # what it is: its kind, or the role it was used in
    name: str  # where it is
    digest: str
    depth: int  # steps from what came from outside
    inputs: Rows = ()  # role and name
    figures: Rows = ()
    config: Rows = ()
    note: str = ""
    earlier: int = 0  # artifacts of its kind that it was made from, which are not shown

    @property
    def short_digest(self) -> str:
        """The first digits: enough to tell artifacts apart."""
        return self.digest.removeprefix("sha256:")[:_SHORT_DIGEST]

    @property
    def key_figures(self) -> Rows:
        """The figures that fit into a small box."""
        return self.figures[:_FIGURES_SHOWN]


def trace(store: Store, artifacts: Mapping[str, Artifact]) -> list[list[Node]]:
    """All that ``artifacts`` were made from, and themselves, in columns from source to result.

    Raises:
        DamagedArtifact: an ancestor in the store is not the one that was used.
    """
    graph = ancestry(store, artifacts)
    nodes: dict[str, Node] = {}
    for key, found in graph.nodes.items():
        if found.problem is not None:
            raise DamagedArtifact(found.problem)
        inputs = [(role, nodes[parent.key]) for role, parent in graph.inputs(key)]
        nodes[key] = _shown(found, inputs)
    columns: list[list[Node]] = [[] for _ in range(1 + max(node.depth for node in nodes.values()))]
    for node in nodes.values():
        columns[node.depth].append(node)
    return columns


def folded(columns: Sequence[Sequence[Node]]) -> list[list[Node]]:
    """The same columns without what later artifacts of the kind were added to, such as the bases of a selection.

    Of each kind in the store only those at the end of its chain stay, and say how many there were before.
    """
    last: dict[str, int] = {}
    for node in chain.from_iterable(columns):
        last[node.title] = max(last.get(node.title, 0), node.depth)
    titles = Counter(node.title for node in chain.from_iterable(columns) if 0 < node.depth < last[node.title])
    kept = [
        [
            replace(node, earlier=titles[node.title]) if node.depth else node
            for node in column
            if node.depth in (0, last[node.title])
        ]
        for column in columns
    ]
    return [column for column in kept if column]


def _shown(found: graph_module.Node, inputs: Sequence[tuple[str, Node]]) -> Node:
    ref, artifact = found.ref, found.artifact
    if artifact is None:
        return Node(found.key, _title(found.role), ref.uri, ref.digest, depth=0, note=_NOTES[found.state])
    manifest = artifact.manifest
    return Node(
        key=found.key,
        title=_title(manifest.short_kind),
        name=ref.uri,
        digest=ref.digest,
        depth=1 + max((node.depth for _, node in inputs), default=-1),
        inputs=tuple((role, node.name) for role, node in inputs),
        figures=_figures(manifest.summary),
        config=(*_flatten(manifest.config), ("seed", str(manifest.seed))),
    )


def _title(kind: str) -> str:
    return _TITLES.get(kind) or _words(kind).capitalize()


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def _figures(summary: Mapping[str, JsonScalar]) -> Rows:
    """A summary as read by people; ordered here, as a manifest keeps no order."""
    names = sorted(summary, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return tuple((_words(name), write_value(summary[name])) for name in names)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(config.items()):
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((prefix + name, ", ".join(_setting(item) for item in value) or "none"))
        else:
            rows.append((prefix + name, _setting(value)))
    return rows


def _setting(value: Any) -> str:
    """A setting as one would type it: digits without separators."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else write_value(value)
