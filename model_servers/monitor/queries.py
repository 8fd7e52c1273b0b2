"""What can be asked of the monitor by the parameters of an address."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from mistudio.settings import Settings

_Number = Field(100, ge=1, le=1000, description="at most so many")
_Since = Field(None, ge=0, le=1e11, description="seconds since 1970 from which on")
_Until = Field(None, ge=0, le=1e11, description="seconds since 1970 before which")


class AlertsAsked(Settings):
    """Which alerts."""

    since: float | None = _Since
    until: float | None = _Until
    rule: str | None = Field(None, max_length=200, description="name of a rule")
    kind: Literal["threshold", "rate", "set", "drift", "note"] | None = Field(None, description="of the alert")
    watched: str | None = Field(None, max_length=500, description="a column or feature that it is about")
    exchange: str | None = Field(None, max_length=1024, description="id of a request")
    limit: int = _Number


class HistoryAsked(Settings):
    """Which samples."""

    since: float | None = _Since
    until: float | None = _Until
    exchange: str | None = Field(None, max_length=1024, description="id of a request")
    feature: str | None = Field(None, max_length=500, description="uri#number of a feature among a sample's strongest")
    column: str | None = Field(None, max_length=200, description="name of a watched column")
    min_value: float | None = Field(None, ge=-1e30, le=1e30, description="least value of that column")
    model: str | None = Field(None, max_length=1024, description="of the origin")
    endpoint: str | None = Field(None, max_length=1024, description="of the origin")
    namespace: str | None = Field(None, max_length=1024, description="of the origin")
    tenant: str | None = Field(None, max_length=1024, description="of the origin")
    before: int | None = Field(None, ge=0, le=1 << 62, description="number of the last sample that is known already")
    limit: int = _Number

    @property
    def origin(self) -> dict[str, str]:
        """What is asked of the origin."""
        names = ("model", "endpoint", "namespace", "tenant")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


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
