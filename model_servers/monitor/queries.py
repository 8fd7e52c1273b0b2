"""What can be asked of the monitor by the parameters of an address."""

from typing import Any

from pydantic import BaseModel, Field

from mistudio.settings import Settings


class DriftAsked(Settings):
    """How much of what changed."""

    count: int = Field(20, ge=1, le=1000, description="features and columns, those that changed most")
    group: str | None = Field(None, max_length=2000, description="of one stream, such as model/endpoint")


def parameters_of(model: type[BaseModel], **more: str) -> dict[str, Any]:
    """What a route is declared with whose address has such parameters, and further ones that are texts."""
    schema = model.model_json_schema()
    found = [
        {"name": name, "in": "query", "required": False, "description": field.get("description", ""), "schema": field}
        for name, field in schema["properties"].items()
    ]
    texts = [
        {"name": name, "in": "query", "required": False, "description": about, "schema": {"type": "string"}}
        for name, about in more.items()
    ]
    return {"parameters": [*found, *texts]}
