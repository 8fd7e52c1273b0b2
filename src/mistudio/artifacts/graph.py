"""What artifacts were made from, as nodes and edges: all of it, with what is damaged or gone as nodes that say so."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mistudio.artifacts.artifact import Artifact, check_digest, open_artifact
from mistudio.artifacts.manifest import InputRef
from mistudio.artifacts.store import Store
from mistudio.errors import DamagedArtifact, NotFound

State = Literal["stored", "outside", "gone", "damaged", "replaced"]


class Node(NamedTuple):
    """One artifact, or one thing outside the store."""

    ref: InputRef
    role: str  # in which it was first met
    state: State  # "replaced": the store holds another artifact under this prefix by now
    artifact: Artifact | None = None  # where it is stored
    problem: str | None = None  # where it is damaged or replaced: what is wrong, and what to do

    @property
    def key(self) -> str:
        """What tells it from every other node."""
        return node_key(self.ref)


class Edge(NamedTuple):
    """One input of an artifact, by the keys of both."""

    parent: str
    role: str
    child: str


class Graph(NamedTuple):
    """Nodes by key, parents before their children, and what leads from one to another."""

    nodes: dict[str, Node]
    edges: tuple[Edge, ...]

    def inputs(self, key: str) -> list[tuple[str, Node]]:
        """Role and node of everything that a node was made from, by role."""
        return [(edge.role, self.nodes[edge.parent]) for edge in self.edges if edge.child == key]


def node_key(ref: InputRef) -> str:
    """The key of the node that an artifact names as its input."""
    return f"{ref.uri}@{ref.digest}"


def ancestry(store: Store, artifacts: Mapping[str, Artifact]) -> Graph:
    """``artifacts``, by the role they play, and everything that they were made from."""
    nodes: dict[str, Node] = {}
    edges: list[Edge] = []

    def visit(node: Node) -> None:
        if node.key in nodes:
            return
        if node.artifact is not None:
            for role, ref in sorted(node.artifact.manifest.inputs.items()):
                if node_key(ref) not in nodes:
                    visit(_node(store, ref, role))
                edges.append(Edge(node_key(ref), role, node.key))
        nodes[node.key] = node

    for role, artifact in artifacts.items():
        visit(Node(artifact.ref, role, "stored", artifact))
    return Graph(nodes, tuple(edges))


def _node(store: Store, ref: InputRef, role: str) -> Node:
    if ":" in ref.uri:
        return Node(ref, role, "outside")
    try:
        artifact = open_artifact(store, ref.uri)
    except NotFound:
        return Node(ref, role, "gone")
    except DamagedArtifact as error:
        return Node(ref, role, "damaged", problem=str(error))
    try:
        check_digest(artifact, ref)
    except DamagedArtifact as error:
        return Node(ref, role, "replaced", problem=str(error))
    return Node(ref, role, "stored", artifact)
