"""The OpenAPI document: bodies are read by hand, within bounds, and so their schemas are put in by hand."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{model}"
_ERROR = {"description": "The request is refused; the message says why."}
REFUSALS: dict[int | str, dict[str, Any]] = dict.fromkeys(
    (400, 401, 403, 404, 413, 415, 422, 429, 499, 500, 503, 504), _ERROR
)


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """What a route is declared with whose body has this schema."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """What a route is declared with whose body is such a model, which :func:`describe_bodies` is told of too."""
    return json_body(reference(model))


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of such a model, by name."""
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def describe_bodies(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Let the app's document have the schemas of these models."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            _, schemas = models_json_schema([(each, "validation") for each in models], ref_template=_REFERENCE)
            known = made.setdefault("components", {}).setdefault("schemas", {})
            known.update(schemas.get("$defs", {}))
        return made

    app.openapi = openapi  # type: ignore[method-assign]
