"""What every case has to end with, however hostile: work done, or a refusal that people can read and act on."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from mistudio.errors import MistudioError

MAX_CHARACTERS = 1000
_SHOWN = 12  # characters of a value by which one recognises it


def refusal_of(call: Callable[[], Any]) -> str | None:
    """The message that a call is refused with; None where it is not. Any other exception comes out of here."""
    try:
        call()
    except MistudioError as error:
        return str(error)
    return None


def is_readable(message: str) -> str | None:
    """What is wrong with the form of a message; None where it is one paragraph of bounded length."""
    if len(message) >= MAX_CHARACTERS:
        return f"{len(message)} characters"
    if not message.strip():
        return "empty"
    return "several paragraphs" if re.search(r"\n\s*\n", message.strip()) else None


def names_one(message: str, values: Iterable[str]) -> bool:
    """Whether a message names one of these values, by its first characters, as they are or as Python writes them."""
    shown = [form for value in values for form in (value[:_SHOWN], repr(value[:_SHOWN])[1:-1])]
    return any(form in message for form in shown)
