"""Files that people write, in YAML or JSON (which YAML includes): read within bounds, refused in words.

What others wrote may be too large, nested too deep, or say a thing twice.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mistudio.errors import ConfigError
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.guarded_yaml import has_more_than, load_yaml, values_in
from mistudio.plain_text import shortened
from mistudio.redaction import secret_setting

Written = TypeVar("Written", bound=BaseModel)

MOST_BYTES = 16 << 20
_MOST_VALUES = 2_000_000  # with what aliases repeat
_MOST_PROBLEMS = 8


def read_written(path: Path, kind: type[Written], what: str) -> Written:
    """What a file of YAML or JSON says.

    Args:
        path: of the file; one whose name ends in .json is JSON.
        kind: what it has to be.
        what: what to call it in errors.

    Raises:
        ConfigError: it cannot be read, or is not what it has to be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        message = f"The {what} {path} cannot be read: {error.strerror or error}."
        raise ConfigError(message) from error
    return parse_written(content, kind, f"{what} {path}", is_json=path.suffix == ".json")


def parse_written(content: bytes, kind: type[Written], what: str, *, is_json: bool = False) -> Written:
    """What a text of YAML or JSON says; arguments and errors as :func:`read_written`."""
    if len(content) > MOST_BYTES:
        message = f"The {what} has more than {MOST_BYTES:,} bytes, the most that is read."
        raise ConfigError(message)
    value = _value(content, what, is_json=is_json)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        message = f"The {what} holds {shortened(value)}: it has to be fields with names, such as version: 1."
        raise ConfigError(message)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        message = f"The {what} is refused: {_problems(error, kind)}"
        raise ConfigError(message) from error


def digest_of(value: BaseModel) -> str:
    """The digest of what a model holds, whatever the file looked like that it came from."""
    content = json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _value(content: bytes, what: str, *, is_json: bool) -> Any:
    try:
        if is_json:
            return parse_json(content)
        value = load_yaml(content)
    except RecursionError as error:
        message = f"The {what} cannot be read: it is nested too deep."
        raise ConfigError(message) from error
    except RefusedJSON as error:
        message = f"The {what} is not JSON: {error}."
        raise ConfigError(message) from error
    except (ValueError, yaml.YAMLError) as error:  # ValueError: of a date that is none, among others
        message = f"The {what} cannot be read: {' '.join(str(error).split())}."
        raise ConfigError(message) from error
    if has_more_than(value, _MOST_VALUES):
        message = f"The {what} has more than {_MOST_VALUES:,} values, with what its aliases repeat."
        raise ConfigError(message)
    return value


def _problems(error: ValidationError, kind: type[BaseModel]) -> str:
    """Each problem with where it is; those that a message has no room for are counted."""
    found = error.errors()
    shown = [_problem(dict(each), kind) for each in found[:_MOST_PROBLEMS]]
    more = f"; and {len(found) - _MOST_PROBLEMS} more" if len(found) > _MOST_PROBLEMS else ""
    return "; ".join(shown) + more + "."


def _problem(problem: dict[str, Any], kind: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in problem["loc"] if "[" not in str(part))
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{place}: {text}" if place else text
    value = problem["input"]
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid") and isinstance(value, dict):
        return f"{place}: {_untold_kind(value, problem['ctx']['discriminator'].strip(chr(39)), kind)}"
    is_secret = secret_setting({place.rpartition(".")[2]: value}) is not None
    shown = "" if is_secret or problem["type"] == "missing" else f", not {shortened(value)}"
    return f"{place}: {text[:1].lower()}{text[1:]}{shown}"


def _untold_kind(value: dict[str, Any], field: str, kind: type[BaseModel]) -> str:
    """Which part does not say of which kind it is, and the kinds that there are: pydantic names neither."""
    tags = [
        tag
        for part in values_in(kind.model_json_schema())
        if isinstance(part, dict) and part.get("propertyName") == field
        for tag in part.get("mapping", ())
    ]
    named = f"{shortened(value['name'])} " if "name" in value else ""
    found = f"has {field} {shortened(value[field])}" if field in value else f"has no {field}"
    return f"{named}{found}: give {field}, one of {', '.join(dict.fromkeys(tags))}"
