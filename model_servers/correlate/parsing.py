"""Look-ups as clients write them, with errors that name the client's fields."""

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel, ValidationError, create_model
from pydantic_core import to_json

from mistudio.correlate.queries import QUERIES, Query
from mistudio.plain_text import shortened
from model_servers.base.problems import Refused, problem_of_fields, wrong

BY = "by"
_KINDS = [
    create_model(
        f"{query.__name__}Instance", __base__=query, **{BY: (Literal[name], Field(description="which look-up"))}
    )  # type: ignore[call-overload]
    for name, query in QUERIES.items()
]


class LookUpInstance(RootModel[Annotated[reduce(or_, _KINDS), Field(discriminator=BY)]]):  # type: ignore[misc]
    """A look-up and which it is, for documents: it is read by :func:`named_query`."""


def query_of(name: str, given: dict[str, Any], above: str = "") -> Query:
    """A look-up by name.

    Args:
        name: of the look-up, one of ``QUERIES``.
        given: its fields; what is None is not given.
        above: the client's field that holds all of it.

    Raises:
        Refused: a field is unknown or out of range.
    """
    present = {field: value for field, value in given.items() if value is not None}
    try:
        # Strictly, as JSON: a text is no number, nor is true; and lists are what tuples are there.
        return QUERIES[name].model_validate_json(to_json(present), strict=True)
    except ValidationError as error:
        raise Refused(problem_of_fields(error, above=above)) from error


def named_query(given: dict[str, Any], above: str) -> Query:
    """A look-up that says itself which it is.

    Raises:
        Refused: it does not, or a field is unknown or out of range.
    """
    return query_of(name_of(given, above), {field: value for field, value in given.items() if field != BY}, above)


def name_of(given: dict[str, Any], above: str) -> str:
    """Which look-up it says it is.

    Raises:
        Refused: none that there is.
    """
    name = given.get(BY)
    if not isinstance(name, str) or name not in QUERIES:
        message = f"{above}.{BY} is {shortened(name)}: say one of {', '.join(QUERIES)}."
        raise wrong(message, f"{above}.{BY}")
    return name
