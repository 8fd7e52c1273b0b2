"""Instances of V1, as predictors read them: objects in a list."""

from collections.abc import Sequence
from typing import Any

from mistudio.plain_text import shortened
from model_servers.base.problems import wrong


def instances_in(payload: dict[str, Any], example: str) -> list[dict[str, Any]]:
    """The instances of a body of V1.

    Args:
        payload: the body.
        example: an instance as JSON, for who got it wrong.

    Raises:
        Refused: there are none, or something else beside them.
    """
    unknown = payload.keys() - {"instances"}
    if unknown:
        message = f"{shortened(min(unknown))} is unknown: a body has instances, and all else is in these."
        raise wrong(message, min(unknown), "unknown_field")
    instances = payload.get("instances")
    if not isinstance(instances, list) or not all(isinstance(each, dict) for each in instances):
        message = f"instances has to be a list of objects, such as [{example}]."
        raise wrong(message, "instances")
    return instances


def check_number(instances: Sequence[object], most: int, param: str) -> None:
    """Refuse a request of no instances, or of too many.

    Raises:
        Refused: it is one.
    """
    if not 1 <= len(instances) <= most:
        message = f"There are {len(instances):,} instances: give 1 to {most}."
        raise wrong(message, param)
