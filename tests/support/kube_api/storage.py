"""The objects of the cluster: versions, generations, what is being deleted, and a history for those who watch."""

import copy
import datetime
import threading
import uuid
from collections.abc import Callable
from typing import Any

from tests.support.kube_api import refusals
from tests.support.kube_api.kinds import Kind
from tests.support.kube_api.refusals import Refusal
from tests.support.kube_api.schemas import admitted

Object = dict[str, Any]
Key = tuple[str, str, str]  # resource, namespace, name
_KEPT = ("uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp")


class Storage:
    """All objects, each with the number of its last change."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._objects: dict[Key, Object] = {}
        self._history: list[tuple[int, str, Kind, Object]] = []
        self._version = 1000
        self.webhooks: dict[str, Callable[[Object], None]] = {}  # by plural: refuse what a schema cannot

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        with self.changed:
            found = self._objects.get((kind.resource, namespace, name))
            if found is None:
                raise refusals.not_found(kind.resource, name)
            return copy.deepcopy(found)

    def listed(self, kind: Kind, namespace: str, selector: str = "") -> tuple[list[Object], int]:
        """Those that the labels select; an empty namespace is all. And the number of the last change."""
        with self.changed:
            found = [
                copy.deepcopy(each)
                for (resource, where, _), each in sorted(self._objects.items())
                if resource == kind.resource and namespace in ("", where) and selects(selector, each)
            ]
            return found, self._version

    def create(self, kind: Kind, namespace: str, content: Object, *, strict: bool) -> Object:
        metadata = content.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        name = metadata.get("name", "")
        if not name:
            raise refusals.invalid(kind.name, "", [("metadata.name", "Required value: name or generateName")])
        refusals.check_name(kind.name, name)
        _check_header(kind, namespace, content)
        if metadata.get("resourceVersion"):
            raise Refusal(400, "resourceVersion should not be set on objects to be created")
        with self.changed:
            if (kind.resource, namespace, name) in self._objects:
                details = {"name": name, "kind": kind.plural, "group": kind.group}
                message = f'{kind.resource} "{name}" already exists'
                raise Refusal(409, message, reason="AlreadyExists", details=details)
            made = self._admitted(kind, content, None, strict=strict)
            if kind.has_status and kind.schema is not None:
                made.pop("status", None)
            made["metadata"] |= {"namespace": namespace} if kind.namespaced else {}
            made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now(), "generation": 1}
            return self._keep(kind, namespace, made, "ADDED")

    def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        *,
        strict: bool,
        of_status: bool = False,
    ) -> Object:
        """Change an object; a version that is given and is not the last one is refused."""
        with self.changed:
            old = self.get(kind, namespace, name)
            new = change(copy.deepcopy(old))
            _check_header(kind, namespace, new)
            wanted = new["metadata"].get("resourceVersion")
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                raise conflict(kind, name)
            new = _only_status(old, new) if of_status else new
            if kind.schema is not None and kind.has_status and not of_status:
                new.pop("status", None)
                new |= {"status": old["status"]} if "status" in old else {}
            new["metadata"] = {**new["metadata"], **{n: old["metadata"][n] for n in _KEPT if n in old["metadata"]}}
            new = self._admitted(kind, new, old, strict=strict)
            if new == old:
                return old
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
            return self._keep(kind, namespace, new, "MODIFIED")

    def delete(self, kind: Kind, namespace: str, name: str, options: Object) -> Object:
        """Take an object away; one with finalizers stays, marked, until they are gone."""
        with self.changed:
            old = self.get(kind, namespace, name)
            for field, given in (options.get("preconditions") or {}).items():
                if given != old["metadata"][field]:
                    message = f"Precondition failed: {field} in precondition: {given}, {field} in object meta: "
                    raise conflict(kind, name, message + str(old["metadata"][field]))
            if old["metadata"].get("finalizers"):
                old["metadata"].setdefault("deletionTimestamp", _now())
                return self._keep(kind, namespace, old, "MODIFIED")
            del self._objects[kind.resource, namespace, name]
            self._note(kind, old, "DELETED")
            return old

    def since(self, kind: Kind, namespace: str, version: int, selector: str) -> list[tuple[int, str, Object]]:
        """The changes after a version."""
        with self.changed:
            return [
                (number, what, copy.deepcopy(each))
                for number, what, of, each in self._history
                if number > version
                and of.resource == kind.resource
                and namespace in ("", each["metadata"].get("namespace", ""))
                and selects(selector, each)
            ]

    def touch(self) -> None:
        """Wake who waits for changes, as one of no object."""
        with self.changed:
            self._version += 1
            self.changed.notify_all()

    def forget(self) -> int:
        """Drop the history, as etcd's compaction does: who watches from before has to list anew."""
        with self.changed:
            self._history.clear()
            self.oldest = self._version
            return self._version

    oldest = 0

    def _admitted(self, kind: Kind, content: Object, old: Object | None, *, strict: bool) -> Object:
        if kind.schema is None:
            return content
        made = admitted(kind.schema, content, old, strict=strict)
        self.webhooks.get(kind.plural, lambda _made: None)(made)
        return made

    def _keep(self, kind: Kind, namespace: str, content: Object, what: str) -> Object:
        metadata = content["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self._objects.pop((kind.resource, namespace, metadata["name"]), None)
            self._note(kind, content, "DELETED")
            return copy.deepcopy(content)
        self._objects[kind.resource, namespace, metadata["name"]] = content
        self._note(kind, content, what)
        return copy.deepcopy(content)

    def _note(self, kind: Kind, content: Object, what: str) -> None:
        self._version += 1
        content["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, what, kind, copy.deepcopy(content)))
        self.changed.notify_all()


def conflict(kind: Kind, name: str, why: str = "") -> Refusal:
    """409, of an object that was changed meanwhile."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    details = {"name": name, "group": kind.group, "kind": kind.plural}
    return Refusal(409, f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}', details=details)


def selects(selector: str, content: Object) -> bool:
    """Whether labels hold ``a=b,c!=d,e`` for an object."""
    labels = content["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, operator, value = (part.strip() for part in _split(term))
        given = labels.get(name)
        if not {"=": given == value, "!=": given != value, "": given is not None}[operator]:
            return False
    return True


def _split(term: str) -> tuple[str, str, str]:
    if "!=" in term:
        name, _, value = term.partition("!=")
        return name, "!=", value
    name, operator, value = term.replace("==", "=").partition("=")
    return name, operator, value


def _check_header(kind: Kind, namespace: str, content: Object) -> None:
    given = (content.get("apiVersion", kind.api_version), content.get("kind", kind.name))
    if given != (kind.api_version, kind.name):
        raise Refusal(400, f"{given[0]} {given[1]} in body is not {kind.api_version} {kind.name} of the path")
    content |= {"apiVersion": kind.api_version, "kind": kind.name}
    where = content["metadata"].get("namespace", namespace)
    if where != namespace:
        message = "the namespace of the provided object does not match the namespace sent on the request"
        raise Refusal(400, message)


def _only_status(old: Object, new: Object) -> Object:
    """What a write of the subresource changes."""
    version = new["metadata"].get("resourceVersion")
    metadata = {**old["metadata"], **({"resourceVersion": version} if version else {})}
    return {**old, "metadata": metadata, "status": new.get("status", {})}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
