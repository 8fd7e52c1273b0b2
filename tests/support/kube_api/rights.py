"""Who may do what: bearer tokens, the rules of Roles, and a record of every right that was used."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.kube_api.refusals import Refusal


class Right(NamedTuple):
    """One thing that somebody did, in the words of a Role."""

    namespace: str
    group: str
    resource: str  # with the subresource, such as pods/log
    verb: str
    name: str = ""


class Rights:
    """The accounts of the cluster, by token, and what each may do; who has no Role may do nothing."""

    def __init__(self) -> None:
        self._accounts: dict[str, str] = {}
        self._rules: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        self._used: dict[str, set[Right]] = {}
        self._lock = threading.Lock()

    def account(self, name: str, token: str, *roles: Mapping[str, Any]) -> None:
        """Add an account with the Roles and ClusterRoles that are bound to it; a Role names its namespace."""
        with self._lock:
            self._accounts[token] = name
            self._rules[name] = [
                (role["metadata"].get("namespace", "") if role["kind"] == "Role" else "", rule)
                for role in roles
                for rule in role.get("rules") or ()
            ]

    def check(self, authorization: str, right: Right) -> str:
        """The account that a request is of.

        Raises:
            Refusal: 401 of an unknown token, 403 of a right that the account has not.
        """
        scheme, _, token = authorization.partition(" ")
        with self._lock:
            account = self._accounts.get(token.strip()) if scheme.lower() == "bearer" else None
            if account is None:
                raise Refusal(401, "Unauthorized")
            if not any(_allows(where, rule, right) for where, rule in self._rules[account]):
                raise _forbidden(account, right)
            self._used.setdefault(account, set()).add(right)
            return account

    def used(self, account: str = "") -> set[Right]:
        """What an account has done, or all have."""
        with self._lock:
            return set().union(*(each for name, each in self._used.items() if account in ("", name)))

    def used_rules(self, account: str = "") -> list[dict[str, Any]]:
        """The same as the fewest rules of a Role, by namespace."""
        verbs: dict[tuple[str, str, str], set[str]] = {}
        for right in self.used(account):
            verbs.setdefault((right.namespace, right.group, right.resource), set()).add(right.verb)
        return [
            {"namespace": namespace, "apiGroups": [group], "resources": [resource], "verbs": sorted(verbs_of)}
            for (namespace, group, resource), verbs_of in sorted(verbs.items())
        ]

    def write_record(self, path: Path, account: str = "") -> None:
        """Write what was used as JSON, for a comparison with the rules of manifests."""
        path.write_text(json.dumps(self.used_rules(account), indent=1) + "\n", encoding="utf-8")


def role(namespace: str, *rules: tuple[str, str | Sequence[str], Iterable[str]], name: str = "test") -> dict[str, Any]:
    """A Role as it stands in a manifest; without a namespace a ClusterRole."""
    kind = "Role" if namespace else "ClusterRole"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    listed = [
        {"apiGroups": [group], "resources": [each] if isinstance(each, str) else list(each), "verbs": list(verbs)}
        for group, each, verbs in rules
    ]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "rules": listed}


def _allows(namespace: str, rule: Mapping[str, Any], right: Right) -> bool:
    names = rule.get("resourceNames") or ()
    return (
        namespace in ("", right.namespace)
        and _has(rule.get("apiGroups"), right.group)
        and _has(rule.get("resources"), right.resource)
        and _has(rule.get("verbs"), right.verb)
        and (not names or right.name in names)
    )


def _has(listed: Iterable[str] | None, wanted: str) -> bool:
    return bool({"*", wanted} & set(listed or ()))


def _forbidden(account: str, right: Right) -> Refusal:
    what = f'"{right.resource}" in API group "{right.group}" in the namespace "{right.namespace}"'
    of = f"{right.resource}.{right.group}" if right.group else right.resource
    said = f'{of} "{right.name}" is forbidden' if right.name else f"{of} is forbidden"
    message = f'{said}: User "{account}" cannot {right.verb} resource {what}'
    return Refusal(403, message, details={"name": right.name, "group": right.group, "kind": right.resource})
