"""What network policies let through, as Kubernetes reads them: for pods that are known by namespace and labels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NAME = "kubernetes.io/metadata.name"


class Pod(NamedTuple):
    """A pod, as policies see it."""

    namespace: str
    labels: Mapping[str, str]


class Policies:
    """The policies of a cluster.

    Args:
        documents: all that it has; other kinds are passed over.
    """

    def __init__(self, documents: Sequence[Mapping[str, Any]]) -> None:
        self._all = [document for document in documents if document["kind"] == "NetworkPolicy"]

    def allows(self, source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
        """Whether a connection is let out of one pod and into the other."""
        out = self._passes("Egress", source, target, port, protocol)
        return out and self._passes("Ingress", target, source, port, protocol)

    def leaves(self, source: Pod, port: int) -> bool:
        """Whether a connection to an address outside of the cluster is let out."""
        return self._passes("Egress", source, None, port, "TCP")

    def _passes(self, way: str, pod: Pod, other: Pod | None, port: int, protocol: str) -> bool:
        chosen = [policy for policy in self._all if _is_of(policy, way, pod)]
        rules = [rule for policy in chosen for rule in policy["spec"].get(way.lower()) or ()]
        peers = "to" if way == "Egress" else "from"
        return not chosen or any(
            _is_port(rule, port, protocol) and _is_peer(rule.get(peers), pod, other) for rule in rules
        )


def _is_of(policy: Mapping[str, Any], way: str, pod: Pod) -> bool:
    spec = policy["spec"]
    own = policy["metadata"]["namespace"] == pod.namespace
    return own and way in spec["policyTypes"] and _selects(spec["podSelector"], pod.labels)


def _is_port(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any(each["port"] == port and each.get("protocol", "TCP") == protocol for each in ports)


def _is_peer(peers: Sequence[Mapping[str, Any]] | None, own: Pod, other: Pod | None) -> bool:
    if not peers:
        return True
    if other is None:
        return any("ipBlock" in peer for peer in peers)
    return any(_is_one(peer, own, other) for peer in peers if "ipBlock" not in peer)


def _is_one(peer: Mapping[str, Any], own: Pod, other: Pod) -> bool:
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {NAME: other.namespace}):
            return False
    elif other.namespace != own.namespace:
        return False
    return _selects(peer.get("podSelector") or {}, other.labels)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(name) != value for name, value in wanted.items()):
        return False
    return all(_expression(each, labels) for each in selector.get("matchExpressions") or ())


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator = expression["key"], expression["operator"]
    if operator == "Exists":
        return key in labels
    if operator == "In":
        return labels.get(key) in expression["values"]
    raise NotImplementedError(operator)
