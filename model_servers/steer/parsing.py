"""A request as clients write it, flat, to one of the engine's, with errors that name the client's fields."""

from typing import Any

from pydantic import ValidationError, create_model
from pydantic_core import to_json

from mistudio.steer.requests import GenerationRequest, Sampling
from model_servers.base.problems import Refused, problem_of_fields

_SAMPLING = frozenset(Sampling.model_fields)
_OWN: dict[str, Any] = {
    name: (field.annotation, field) for name, field in GenerationRequest.model_fields.items() if name != "sampling"
}
# What a request looks like to clients, for documents: it is read by ``generation_request``.
Instance = create_model("Instance", __base__=Sampling, **_OWN)


def generation_request(
    given: dict[str, Any], renamed: dict[str, str] | None = None, above: str = ""
) -> GenerationRequest:
    """The request; what is None is not given.

    Args:
        given: fields of a request and of its sampling, side by side.
        renamed: what the client knows fields by, where that differs.
        above: the client's field that holds all of it.

    Raises:
        Refused: a field is unknown or out of range.
    """
    present = {name: value for name, value in given.items() if value is not None}
    content = {name: value for name, value in present.items() if name not in _SAMPLING}
    if "sampling" in present:
        content["sampling"] = None  # by which it is refused: clients write what is in it beside the rest
    else:
        content["sampling"] = {name: value for name, value in present.items() if name in _SAMPLING}
    names = {f"sampling.{name}": name for name in _SAMPLING} | (renamed or {})
    if above:
        names = {f"{above}.{inner}": f"{above}.{outer}" for inner, outer in names.items()}
    try:
        # Strictly, as JSON: a text is no number, nor is true; and lists are what tuples are there.
        return GenerationRequest.model_validate_json(to_json(content), strict=True)
    except ValidationError as error:
        raise Refused(problem_of_fields(error, names, above)) from error
