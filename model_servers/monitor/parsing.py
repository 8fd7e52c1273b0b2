"""What clients of the monitor write: queries, texts to be read, rules, with errors that name the client's fields."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import to_json
from starlette.datastructures import QueryParams

from mistudio.errors import ConfigError
from mistudio.monitor.live import Wanted
from mistudio.monitor.rules.rules import Rules
from mistudio.plain_text import shortened
from mistudio.settings import Settings
from model_servers.base.bodies import json_object
from model_servers.base.problems import Refused, problem_of_fields, wrong

Read = TypeVar("Read", bound=Settings)
YAML = frozenset({"application/yaml", "application/x-yaml", "text/yaml"})
_MOST_PARAMETERS = 64
_MANY = frozenset({"kinds", "watched", "features"})


class Acknowledged(Settings):
    """What of drift somebody has seen."""

    watched: tuple[str, ...] = Field(
        (), max_length=1000, description="features or columns as in alerts; empty: all that was told"
    )
    group: str | None = Field(None, max_length=500, description="of one stream alone, such as model/endpoint")
    alert: str | None = Field(None, max_length=200, description="id of an alert that was seen, of any kind")
    rebaseline: bool = Field(False, description="take what came since a change for what is usual from now on")


def read_fields(kind: type[Read], given: Mapping[str, Any], above: str = "") -> Read:
    """An object as clients write it; what is null is not given.

    Args:
        kind: what it has to be.
        given: its fields.
        above: the client's field that holds all of it.

    Raises:
        Refused: a field is unknown or out of range.
    """
    present = {name: value for name, value in given.items() if value is not None}
    try:
        return kind.model_validate_json(to_json(present), strict=True)
    except ValidationError as error:
        raise Refused(problem_of_fields(error, above=above)) from error


def read_query(kind: type[Read], query: QueryParams, leave: frozenset[str] = frozenset()) -> Read:
    """The parameters of an address, whose values are texts; those of some names may be there several times.

    Args:
        kind: what they have to be.
        query: the parameters.
        leave: names of others, which are not looked at.

    Raises:
        Refused: one is unknown, out of range, or there twice.
    """
    found: dict[str, Any] = {}
    pairs = [pair for pair in query.multi_items() if pair[0] not in leave]
    if len(pairs) > _MOST_PARAMETERS:
        message = f"The address has {len(pairs)} parameters: give at most {_MOST_PARAMETERS}."
        raise wrong(message)
    for name, value in pairs:
        if name in _MANY:
            found.setdefault(name, []).extend(part for part in value.split(",") if part)
        elif name in found:
            message = f"{shortened(name)} is there twice: give it once."
            raise wrong(message, name)
        else:
            found[name] = value
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise Refused(problem_of_fields(error)) from error


def read_rules_body(body: bytes, content_type: str) -> Rules:
    """Rules as JSON or, where the type says so, as the YAML of their file.

    Raises:
        Refused: they are refused; the message says where and why.
    """
    if content_type.partition(";")[0].strip().lower() in YAML:
        from mistudio.monitor.watch.written_files import parse_written

        try:
            return parse_written(body, Rules, "body")
        except ConfigError as error:
            raise wrong(str(error)) from error
    return read_fields(Rules, json_object(body))


def wanted(query: QueryParams) -> Wanted:
    """What a follower wants, as the address says it.

    Raises:
        Refused: a parameter is unknown or out of range.
    """
    return read_query(Wanted, query, frozenset({"last_event_id", "follow"}))
