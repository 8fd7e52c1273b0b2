"""Alerts as JSON, and back: what is sent, stored and shown."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from mistudio.errors import InputError
from mistudio.monitor.records import Alert, Origin
from mistudio.plain_text import without_surrogates


def alert_content(alert: Alert) -> dict[str, Any]:
    """An alert as an object of JSON."""
    content = asdict(alert)
    return {**content, "watched": list(alert.watched), "values": dict(alert.values), "message": _plain(alert.message)}


def alert_from(content: Mapping[str, Any]) -> Alert:
    """The alert that an object of JSON says.

    Raises:
        InputError: it is none.
    """
    known = {field.name for field in fields(Alert)}
    try:
        origin = Origin(**content.get("origin", {}))
        own = {name: value for name, value in content.items() if name in known}
        return Alert(**{**own, "origin": origin, "watched": tuple(content.get("watched", ()))})
    except (TypeError, AttributeError) as error:
        message = f"This is no alert: {error}."
        raise InputError(message) from error


def _plain(text: str) -> str:
    return " ".join(without_surrogates(text).split())
