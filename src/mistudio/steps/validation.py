"""Turning plain values into a step's configuration, with every refusal in one readable message."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mistudio.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], settings: Mapping[str, object], called: Mapping[str, str] | None = None) -> Model:
    """Build a configuration; ``called`` has the parameters that are named otherwise than the fields they set.

    Raises:
        ConfigError: a value is refused; the message names the parameter, the value and the reason.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        raise refused(error, called) from error


def refused(error: ValidationError, called: Mapping[str, str] | None = None) -> ConfigError:
    """What was refused, in words: the parameter, the value and the reason."""
    return ConfigError("; ".join(_reason(dict(problem), called or {}) for problem in error.errors()) + ".")


def _reason(problem: dict[str, object], called: Mapping[str, str]) -> str:
    location = problem["loc"]
    parts = [str(part) for part in location] if isinstance(location, tuple) else []
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return text  # our own validators name the parameter themselves
    text = text[:1].lower() + text[1:]
    name = parts[-1] if parts else "settings"
    return f"{called.get(name, name)}: {text}, not {problem['input']!r}"


def json_object(name: str, text: str, example: str) -> dict[str, Any]:
    """A parameter that was given as a JSON object; empty where nothing was.

    Raises:
        ConfigError: it is something else.
    """
    hint = f"Write an object, such as {example}."
    try:
        parsed = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        message = f"{name} is not JSON: {text!r}: {error}. {hint}"
        raise ConfigError(message) from error
    if not isinstance(parsed, dict):
        message = f"{name} is not a JSON object: {text!r}. {hint}"
        raise ConfigError(message)
    return parsed
