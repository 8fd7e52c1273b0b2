"""Rights of service accounts: exactly the calls that the code makes. ``checks/calls`` lists them, a file an account.

The lists are no plan: the tests of what calls the Kubernetes API record the calls of an account as the fewest rules,
and compare them with its file. Roles that are marked ``mistudio.io/rights: upstream`` are for code of others in the
same pods, and are left out.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from checks.rendering import Document, rendered
from checks.tools import ROOT

CALLS = ROOT / "checks" / "calls"
NAMESPACE = "mistudio-data"  # of the accounts that call
MARK = "mistudio.io/rights"
_KINDS = ("Role", "ClusterRole")


def look() -> tuple[str, Sequence[str]]:
    """The rights of each overlay."""
    problems: list[str] = []
    for target, documents in rendered().items():
        if any(document["kind"] == "RoleBinding" for document in documents):
            problems += [f"{target}: {problem}" for problem in problems_of(documents, recorded())]
    return f"{sum(map(len, recorded().values()))} calls", problems


def recorded() -> dict[str, set[str]]:
    """The calls by account (``namespace/name``), each as "namespace group resource verb"."""
    rules = {path.stem: json.loads(path.read_text()) for path in sorted(CALLS.glob("*.json"))}
    return {
        f"{NAMESPACE}/{name}": {right for rule in listed for right in _rights(rule["namespace"], rule)}
        for name, listed in rules.items()
    }


def problems_of(documents: Sequence[Document], calls: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """Rights that no call needs, calls that no right allows, and rights that nobody should have."""
    for each in documents:
        if each["kind"] in _KINDS and _is_wide(each):
            yield f"{_name(each)} names everything by *"
        if each["kind"] == "ClusterRoleBinding":
            yield f"{_name(each)} holds for the whole cluster"
    given = rights_of(documents)
    for account in sorted(given.keys() | calls.keys()):
        allowed, made = given.get(account, set()), set(calls.get(account, ()))
        yield from (f"{account} may {right}, and nothing calls it" for right in sorted(allowed - made))
        yield from (f"{account} calls {call}, and may not" for call in sorted(made - allowed))


def rights_of(documents: Sequence[Document]) -> dict[str, set[str]]:
    """What the roles that are not marked `upstream` give to each account."""
    roles = {(_of(each), each["metadata"]["name"]): each for each in documents if each["kind"] == "Role"}
    given: dict[str, set[str]] = {}
    for binding in documents:
        if binding["kind"] == "RoleBinding":
            namespace = _of(binding)
            role = roles[namespace, binding["roleRef"]["name"]]
            if role["metadata"].get("labels", {}).get(MARK) == "upstream":
                continue
            rights = {right for rule in role["rules"] for right in _rights(namespace, rule)}
            for subject in binding["subjects"]:
                given.setdefault(f"{subject['namespace']}/{subject['name']}", set()).update(rights)
    return given


def _rights(namespace: str, rule: Mapping[str, Any]) -> Iterator[str]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            yield from (f"{namespace} {group or 'core'} {resource} {verb}" for verb in rule["verbs"])


def _is_wide(role: Document) -> bool:
    return any("*" in rule.get(key, ()) for rule in role["rules"] for key in ("apiGroups", "resources", "verbs"))


def _of(document: Document) -> str:
    return str(document["metadata"]["namespace"])


def _name(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"
