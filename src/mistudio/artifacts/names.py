"""What names in a store look like."""

import re

from mistudio.errors import InputError
from mistudio.plain_text import shortened

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
NAME_PATTERN = rf"{_PART}(/{_PART})*"
_NAME = re.compile(NAME_PATTERN)


def is_name(name: str) -> bool:
    """Whether this can be a name, or a part of one."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return ``name`` if it stays inside the store.

    Raises:
        InputError: the name is absolute, has empty or dotted parts, or odd characters.
    """
    if not is_name(name):
        message = (
            f"{shortened(name)} is not a name in the store: use letters, digits, '.', '_' and '-' "
            "(not first '.' or '-'), with '/' between folders."
        )
        raise InputError(message)
    return name
