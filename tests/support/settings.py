"""Every setting of a configuration, with a value that it does not have."""

from collections.abc import Container, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mistudio.errors import ConfigError

_SOME = (1, 2, 0.5, "other")  # for settings that are not set


def changed(
    config: BaseModel, others: Mapping[str, Any], without: Container[str] = ()
) -> Iterator[tuple[str, BaseModel]]:
    """For each setting, also of the configurations inside this one: its name, and the whole with another value.

    Args:
        config: what is changed, one setting at a time.
        others: values by the name of a setting, for those whose values cannot be guessed.
        without: names of settings that stay as they are.

    Raises:
        AssertionError: no other value is known to be allowed.
    """
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name in without:
            continue
        if isinstance(value, BaseModel):
            for inner, other in changed(value, others, without):
                yield f"{name}.{inner}", _with(config, name, other.model_dump())
        elif not _is_fixed(field.annotation):
            guesses = [others[name]] if name in others else _guesses(value, field.annotation)
            yield name, _first_allowed(config, name, guesses)


def _first_allowed(config: BaseModel, name: str, guesses: list[Any]) -> BaseModel:
    for guess in guesses:
        try:
            found = _with(config, name, guess)
        except (ValidationError, ConfigError):
            continue
        if found != config:
            return found
    message = f"No other value of {type(config).__name__}.{name} is known: {guesses} are not allowed, or the same."
    raise AssertionError(message)


def _with(config: BaseModel, name: str, value: Any) -> BaseModel:
    return type(config).model_validate({**config.model_dump(), name: value})


def _is_fixed(annotation: Any) -> bool:
    """Whether there is no choice: the name of an architecture."""
    return get_origin(annotation) is Literal and len(get_args(annotation)) == 1


def _guesses(value: Any, annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1, value * 2, value / 2, value + 0.25]
    if isinstance(value, str):
        return [value + "other"]
    if isinstance(value, tuple):
        return [value[:-1], value[1:]]
    return list(_SOME)
