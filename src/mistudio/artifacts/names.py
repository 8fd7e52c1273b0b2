"""What names in a store look like."""

import re

from mistudio.errors import InputError
from mistudio.plain_text import shortened

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
NAME_PATTERN = rf"{_PART}(/{_PART})*"
MAX_NAME_CHARS = 1024  # as stores of objects have it
MAX_PART_CHARS = 255  # as disks have it
_NAME = re.compile(NAME_PATTERN)


def is_name(name: str) -> bool:
    """Whether this can be a name, or a part of one."""
    is_short = len(name) <= MAX_NAME_CHARS and max(map(len, name.split("/"))) <= MAX_PART_CHARS
    return is_short and _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return ``name`` if it stays inside the store.

    Raises:
        InputError: the name is absolute, has empty or dotted parts, or odd characters, or is too long.
    """
    if not is_name(name):
        message = (
            f"{shortened(name)} is not a name in the store: use letters, digits, '.', '_' and '-' (not first '.' or "
            f"'-'), with '/' between folders; at most {MAX_PART_CHARS} characters between two '/', and "
            f"{MAX_NAME_CHARS:,} in all."
        )
        raise InputError(message)
    return name
