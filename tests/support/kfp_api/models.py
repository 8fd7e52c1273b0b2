"""JSON against the models of ``kfp_server_api``, as a server written in Go reads it: nothing unknown, no wrong type."""

import re
from datetime import datetime
from typing import Any

import kfp_server_api
from dateutil import parser

_PLAIN: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "float": (int, float)}
_LIST = re.compile(r"list\[(.+)\]")
_DICT = re.compile(r"dict\(str, (.+)\)")


class Refused(Exception):
    """An answer that says no, in the form of google.rpc.Status."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def invalid(message: str) -> Refused:
    return Refused(400, 3, f"Invalid input error: {message}")


def read_model(name: str, content: Any, where: str = "body") -> Any:
    """A model made of JSON."""
    kind = getattr(kfp_server_api, name)
    if not kind.openapi_types:  # an enumeration, or anything
        allowed = getattr(kind, "allowable_values", None)
        if allowed and content not in allowed:
            raise invalid(f"{where}: {content!r} is none of {allowed}")
        return content
    if not isinstance(content, dict):
        raise invalid(f"{where}: an object was expected")
    by_name = {sent: own for own, sent in kind.attribute_map.items()}
    if unknown := set(content) - set(by_name):
        raise invalid(f'{where}: unknown field "{sorted(unknown)[0]}"')
    values = {
        by_name[sent]: _read(kind.openapi_types[by_name[sent]], value, f"{where}.{sent}")
        for sent, value in content.items()
        if value is not None
    }
    return kind(**values)


def _read(kind: str, value: Any, where: str) -> Any:
    if found := _LIST.fullmatch(kind):
        if not isinstance(value, list):
            raise invalid(f"{where}: a list was expected")
        return [_read(found[1], each, f"{where}[]") for each in value]
    if found := _DICT.fullmatch(kind):
        if not isinstance(value, dict):
            raise invalid(f"{where}: an object was expected")
        return {key: _read(found[1], each, f"{where}.{key}") for key, each in value.items()}
    if kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
            raise invalid(f"{where}: {kind} was expected")
        return value
    if kind == "datetime":
        return _read_time(value, where)
    return value if kind == "object" else read_model(kind, value, where)


def _read_time(value: Any, where: str) -> datetime:
    try:
        return parser.isoparse(value)
    except (TypeError, ValueError) as error:
        raise invalid(f"{where}: a time was expected") from error


def write_model(made: Any) -> Any:
    """The JSON of a model."""
    return _CLIENT.sanitize_for_serialization(made)


_CLIENT = kfp_server_api.ApiClient(kfp_server_api.Configuration())
