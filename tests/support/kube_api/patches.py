"""The four kinds of patches: JSON merge, JSON, strategic merge of core kinds, and server-side apply."""

import copy
import datetime
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.kube_api.refusals import Refusal

MERGE = "application/merge-patch+json"
JSON = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

# The keys by which a strategic merge finds the items of lists, of those that core kinds here have.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
    "ports": "containerPort",
}


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386: null takes a field away, lists are replaced."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(old) if isinstance(old, dict) else {}
    for name, each in patch.items():
        if each is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), each)
    return result


def strategically_merged(old: Any, patch: Any) -> Any:
    """As a merge, but lists with a key are merged item by item."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(old) if isinstance(old, dict) else {}
    for name, each in patch.items():
        if each is None:
            result.pop(name, None)
        elif isinstance(each, list) and name in _MERGE_KEYS:
            result[name] = _merged_list(result.get(name) or [], each, _MERGE_KEYS[name])
        else:
            result[name] = strategically_merged(result.get(name), each)
    return result


def _merged_list(old: list[Any], patch: list[Any], key: str) -> list[Any]:
    items = {each[key]: each for each in old}
    for each in patch:
        if each.get("$patch") == "delete":
            items.pop(each[key], None)
        else:
            items[each[key]] = strategically_merged(items.get(each[key]), each)
    return list(items.values())


def json_patched(old: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902: add, remove, replace, test.

    Raises:
        Refusal: 422, a path is not there, or a test does not hold.
    """
    result = copy.deepcopy(old)
    for each in operations:
        _operate(result, each)
    return result


def _operate(content: Any, operation: dict[str, Any]) -> None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    try:
        for part in parents:
            content = content[int(part)] if isinstance(content, list) else content[part]
        _OPERATIONS[operation["op"]](content, last, operation.get("value"))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        message = (
            f"the server rejected our request due to an error in our request: {operation['op']} {operation['path']}"
        )
        raise Refusal(422, message, reason="Invalid") from error


def _add(content: Any, last: str, value: Any) -> None:
    if isinstance(content, list):
        content.insert(len(content) if last == "-" else int(last), value)
    else:
        content[last] = value


def _replace(content: Any, last: str, value: Any) -> None:
    place: Any = int(last) if isinstance(content, list) else last
    content[place]  # which has to be there
    content[place] = value


def _remove(content: Any, last: str, _value: Any) -> None:
    del content[int(last) if isinstance(content, list) else last]


def _test(content: Any, last: str, value: Any) -> None:
    if content[int(last) if isinstance(content, list) else last] != value:
        raise ValueError(last)


_OPERATIONS: dict[str, Callable[[Any, str, Any], None]] = {
    "add": _add,
    "replace": _replace,
    "remove": _remove,
    "test": _test,
}


def applied(old: dict[str, Any] | None, wanted: dict[str, Any], manager: str, *, force: bool) -> dict[str, Any]:
    """Server-side apply: who applied a field owns it, and another who wants it otherwise is refused.

    Lists are one field here, as those of CRDs that are atomic are; owners are kept by field, not in the API's own form.

    Raises:
        Refusal: 409, another manager owns a field and ``force`` is not set.
    """
    before = old or {}
    owners = {tuple(each["path"]): each["manager"] for each in before.get("metadata", {}).get("managedFields", ())}
    fields = {path: value for path, value in _leaves(wanted, ()) if path[0] not in ("apiVersion", "kind")}
    fields = {path: value for path, value in fields.items() if path[:2] not in (("metadata", "name"),)}
    taken = [
        (path, owners[path])
        for path, value in fields.items()
        if owners.get(path, manager) != manager and _at(before, path) != value
    ]
    if taken and not force:
        causes = [
            {"reason": "FieldManagerConflict", "message": f'conflict with "{who}"', "field": "." + ".".join(path)}
            for path, who in taken
        ]
        message = f"Apply failed with {len(taken)} conflict{'s' if len(taken) > 1 else ''}"
        raise Refusal(409, message, details={"causes": causes})
    result = merged(before, wanted)
    for path in [path for path, who in owners.items() if who == manager and path not in fields]:
        _drop(result, path)
        del owners[path]
    owners |= dict.fromkeys(fields, manager)
    result["metadata"]["managedFields"] = [
        {"manager": who, "operation": "Apply", "path": list(path), "time": _now()} for path, who in owners.items()
    ]
    return result


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _leaves(each, (*path, name))
    else:
        yield path, value


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _drop(content: Any, path: tuple[str, ...]) -> None:
    for part in path[:-1]:
        content = content.get(part, {})
    content.pop(path[-1], None)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
