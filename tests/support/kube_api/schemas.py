"""Objects held against the OpenAPI schema of their CRD, as the API server does it.

Structural schemas alone: types, required fields, bounds, patterns, enums, maps and lists with keys, defaults, pruning,
and the rules of ``x-kubernetes-validations`` that the CRDs here have. A rule or a keyword that is not known here is an
error of this module's, not a rule that holds.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.support.kube_api.refusals import Refusal, invalid

Schema = Mapping[str, Any]
Problem = tuple[str, str]

_KNOWN = {
    *("type", "properties", "additionalProperties", "items", "required", "enum", "pattern", "format", "description"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "default", "title"),
    *("anyOf", "nullable", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations"),
    "x-kubernetes-embedded-resource",
}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("should be greater than or equal to", lambda value, bound: value >= bound),
    "maximum": ("should be less than or equal to", lambda value, bound: value <= bound),
    "minLength": ("should be at least so many characters:", lambda value, bound: len(value) >= bound),
    "maxLength": ("may not be more characters than", lambda value, bound: len(value) <= bound),
    "minItems": ("should have at least so many items:", lambda value, bound: len(value) >= bound),
    "maxItems": ("must not have more items than", lambda value, bound: len(value) <= bound),
    "minProperties": ("should have at least so many properties:", lambda value, bound: len(value) >= bound),
}
# Each rule that the CRDs have, as a pattern and what it asks of a value and the one before it (None: there was none).
_RULES: tuple[tuple[str, Callable[[re.Match[str], Any, Any], bool]], ...] = (
    (r"self == oldSelf", lambda _found, value, old: old is None or value == old),
    (r"self\.metadata\.name\.matches\('(.+)'\)", lambda found, value, _: _matches(found[1], value["metadata"]["name"])),
    (r"size\(self\.metadata\.name\) <= (\d+)", lambda found, value, _: len(value["metadata"]["name"]) <= int(found[1])),
    (r"self in \[(.+)\]", lambda found, value, _: value in re.findall(r"'([^']*)'", found[1])),
    (r"self >= (\d+)", lambda found, value, _: value >= int(found[1])),
    (r"self == '' \|\| self\.matches\('(.+)'\)", lambda found, value, _: not value or _matches(found[1], value)),
    (r"has\(self\.(\w+)\)", lambda found, value, _: found[1] in value),
    (r"!self\.exists\(c, c == '(.+)'\)", lambda found, value, _: found[1] not in value),
    (r"\[(has\(self\.\w+\),? ?)+\]\.filter\(x, x\)\.size\(\) <= (\d+)", lambda found, value, _: _at_most(found, value)),
    (r"self\.templates\.all\(t, !has\(t\.metadata\.namespace\) .+\)", lambda _f, value, _: _no_namespaces(value)),
    (r"!\(has\(self\.startupPolicy\) .+ has\(x\.dependsOn\)\)\)", lambda _f, value, _: _one_order(value)),
)


def admitted(schema: Schema, content: dict[str, Any], old: dict[str, Any] | None, *, strict: bool) -> dict[str, Any]:
    """The object as it is kept: with defaults, without fields that the schema does not know.

    Args:
        schema: of the whole object.
        content: that is written.
        old: what was there; None: nothing.
        strict: unknown fields are refused, and not left out.

    Raises:
        Refusal: 400 for unknown fields, 422 for what is wrong.
    """
    own = {name: each for name, each in content.items() if name not in _COMMON}
    kept = {name: content[name] for name in _COMMON if name in content}
    unknown: list[str] = []
    pruned = _pruned(_spec_of(schema), own, "", unknown)
    if strict and unknown:
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise Refusal(400, f"strict decoding error: {listed}")
    whole = kept | pruned
    problems = [*_problems(_spec_of(schema), pruned, _own(old), ""), *_rule_problems(schema, whole, old, "")]
    if problems:
        raise invalid(str(content.get("kind")), content["metadata"].get("name", ""), problems)
    return whole


_COMMON = ("apiVersion", "kind", "metadata")


def _own(content: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if content is None else {name: each for name, each in content.items() if name not in _COMMON}


def _spec_of(schema: Schema) -> Schema:
    """The schema without what every object has, which the server knows by itself."""
    own = {name: each for name, each in schema["properties"].items() if name not in _COMMON}
    required = [name for name in schema.get("required", ()) if name not in _COMMON]
    return {"type": "object", "properties": own, "required": required}


def _pruned(schema: Schema, value: Any, path: str, unknown: list[str]) -> Any:
    """The value with defaults and without what is unknown, whose paths are noted."""
    unread = set(schema) - _KNOWN
    assert not unread, f"{path}: the test server does not know {sorted(unread)}"
    if isinstance(value, dict) and "properties" in schema:
        return _pruned_object(schema, value, path, unknown)
    if isinstance(value, dict) and isinstance(schema.get("additionalProperties"), Mapping):
        inner = schema["additionalProperties"]
        return {name: _pruned(inner, each, f"{path}.{name}".lstrip("."), unknown) for name, each in value.items()}
    if isinstance(value, dict) and not _keeps_all(schema):
        unknown += [f"{path}.{name}" for name in value]
        return {}
    if isinstance(value, list) and "items" in schema:
        return [_pruned(schema["items"], each, f"{path}[{index}]", unknown) for index, each in enumerate(value)]
    return value


def _pruned_object(schema: Schema, value: dict[str, Any], path: str, unknown: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, each in value.items():
        inside = f"{path}.{name}".lstrip(".")
        if name in schema["properties"]:
            known[name] = _pruned(schema["properties"][name], each, inside, unknown)
        elif _keeps_all(schema):
            known[name] = each
        else:
            unknown.append(inside)
    for name, each in schema["properties"].items():
        if name not in known and "default" in each:
            known[name] = each["default"]
    return known


def _keeps_all(schema: Schema) -> bool:
    return bool(schema.get("x-kubernetes-preserve-unknown-fields")) or schema.get("additionalProperties") is True


def _problems(schema: Schema, value: Any, old: Any, path: str) -> Iterator[Problem]:
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield path, f"Invalid value: {value!r}: must be of type integer or string"
            return
    elif (kind := schema.get("type")) and not _is_of(kind, value):
        yield path, f'Invalid value: {value!r}: {path} in body must be of type {kind}: "{type(value).__name__}"'
        return
    yield from _bounds(schema, value, path)
    if path:
        yield from _rule_problems(schema, value, old, path)
    if isinstance(value, dict):
        yield from _in_object(schema, value, old, path)
    elif isinstance(value, list):
        yield from _in_list(schema, value, old, path)


def _is_of(kind: str, value: Any) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _bounds(schema: Schema, value: Any, path: str) -> Iterator[Problem]:
    if "enum" in schema and value not in schema["enum"]:
        yield path, f"Unsupported value: {value!r}: supported values: {', '.join(map(repr, schema['enum']))}"
    for name, (said, holds) in _BOUNDS.items():
        if name in schema and not holds(value, schema[name]):
            yield path, f"Invalid value: {value!r}: {path} in body {said} {schema[name]}"
    if "pattern" in schema and isinstance(value, str) and not _matches(schema["pattern"], value):
        yield path, f"Invalid value: {value!r}: {path} in body should match '{schema['pattern']}'"


def _in_object(schema: Schema, value: dict[str, Any], old: Any, path: str) -> Iterator[Problem]:
    before = old if isinstance(old, dict) else {}
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}".lstrip("."), "Required value"
    extra = schema.get("additionalProperties")
    for name, each in value.items():
        inner = schema.get("properties", {}).get(name) or (extra if isinstance(extra, Mapping) else None)
        if inner is not None:
            yield from _problems(inner, each, before.get(name), f"{path}.{name}".lstrip("."))


def _in_list(schema: Schema, value: list[Any], old: Any, path: str) -> Iterator[Problem]:
    keys = schema.get("x-kubernetes-list-map-keys", ())

    def key(each: Any) -> Any:
        return tuple(each.get(name) for name in keys) if isinstance(each, dict) else None

    if schema.get("x-kubernetes-list-type") == "map":
        seen = [key(each) for each in value]
        for twice in {each for each in seen if seen.count(each) > 1}:
            yield path, f"Duplicate value: {dict(zip(keys, twice, strict=True))}"
    before = {key(each): each for each in old or []} if keys else {}
    for index, each in enumerate(value):
        yield from _problems(schema["items"], each, before.get(key(each)), f"{path}[{index}]")


def _rule_problems(schema: Schema, value: Any, old: Any, path: str) -> Iterator[Problem]:
    for each in schema.get("x-kubernetes-validations", ()):
        if not _rule_holds(each["rule"], value, old):
            yield path, f"Invalid value: {each.get('message', 'failed rule: ' + each['rule'])}"


def _rule_holds(rule: str, value: Any, old: Any) -> bool:
    for pattern, holds in _RULES:
        if found := re.fullmatch(pattern, rule.strip()):
            return holds(found, value, old)
    raise NotImplementedError(f"the test server does not know the rule {rule}")


def _at_most(found: re.Match[str], value: Any) -> bool:
    named = re.findall(r"has\(self\.(\w+)\)", found[0])
    return sum(name in value for name in named) <= int(found[2])


def _no_namespaces(value: Any) -> bool:
    return not any(each.get("metadata", {}).get("namespace") for each in value["templates"])


def _one_order(value: Any) -> bool:
    in_order = value.get("startupPolicy", {}).get("startupPolicyOrder") == "InOrder"
    return not (in_order and any("dependsOn" in each for each in value.get("replicatedJobs", ())))


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None
