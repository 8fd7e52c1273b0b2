"""JSON that others wrote: parsed within bounds, so that no file or text ends in anything but a ``ValueError``.

What is bounded, beyond what the standard library's parser refuses: how deep lists and objects nest, the digits of a
number, the number of values (each takes some 60 bytes of memory, however few it takes in the text), and the size of a
file that is read whole. A name that an object holds twice is refused: which of the two was meant cannot be told.

Lone halves of surrogate pairs, which JSON can spell and UTF-8 cannot, pass: who reads a text decides about them
(:mod:`mistudio.plain_text`).
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

MAX_DEPTH = 200
MAX_DIGITS = 100  # where numbers have to be finite; elsewhere as many as Python reads
MAX_VALUES = 16_000_000
MAX_FILE_BYTES = 256 * 1024 * 1024

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}|[eE]\+?\d{{3}}")  # one in a string only costs time
_LARGEST = 10**18
_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}")
_SHOWN_CHARACTERS = 40


class RefusedJSON(ValueError):
    """The text is no JSON, or passes a bound; the message says which."""


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a text.

    Args:
        text: a whole document; bytes may be UTF-8, UTF-16 or UTF-32.
        finite: refuse NaN, Infinity and numbers like 1e999, which Python reads beyond the standard. Looking for them
            takes several times as long as reading: for settings, not for records by the million.

    Raises:
        RefusedJSON: it is no JSON, or passes a bound.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
        return _parse(decoded.removeprefix("\ufeff"), finite=finite)
    except RecursionError as error:
        raise RefusedJSON(_too_deep()) from error
    except RefusedJSON:
        raise
    except ValueError as error:
        is_of_json = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
        raise RefusedJSON(str(error) if is_of_json else "a number has more digits than are read") from error


def parse_json_file(path: Path, *, finite: bool = True) -> Any:
    """The value in a file, which is read whole.

    Raises:
        RefusedJSON: it is no JSON, or passes a bound.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        message = f"it has more than {MAX_FILE_BYTES:,} bytes, the most that is read"
        raise RefusedJSON(message)
    return parse_json(content, finite=finite)


def whole_number(value: object) -> int | None:
    """The number from 0 that a value of JSON or a field of CSV is; None where it is something else.

    1.9 is none, nor is true; 7.0 is 7, which tables with gaps write so. Below 10^18.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else -1
    if isinstance(value, int):
        return value if 0 <= value < _LARGEST else None
    digits = value.strip() if isinstance(value, str) else ""
    return int(digits) if _WHOLE_NUMBER.fullmatch(digits) else None


def _parse(text: str, *, finite: bool) -> Any:
    num_openings = text.count("[") + text.count("{")
    if num_openings + text.count(",") > MAX_VALUES:
        message = f"it holds more than {MAX_VALUES:,} values, the most that are read"
        raise RefusedJSON(message)
    hooks: dict[str, Any] = {"object_pairs_hook": _object}
    if finite:
        hooks["parse_constant"] = _constant
        if _LONG_NUMBER.search(text):
            hooks |= {"parse_int": _integer, "parse_float": _finite_float}
    value = json.loads(text, **hooks)
    if num_openings > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise RefusedJSON(_too_deep())
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects nest deeper than that, without a call for each level."""
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(depth):
        members = (member for each in level for member in (each.values() if isinstance(each, dict) else each))
        level = [member for member in members if isinstance(member, list | dict)]
        if not level:
            return False
    return True


def _too_deep() -> str:
    return f"its lists and objects nest deeper than {MAX_DEPTH} levels, the most that are read"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        message = f"an object has the name {_shown(name)} twice: leave one of them out"
        raise RefusedJSON(message)
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        message = f"the number {_shown(digits)} has more than {MAX_DIGITS} digits, the most that are read"
        raise RefusedJSON(message)
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        message = f"the number {_shown(digits)} is too large"
        raise RefusedJSON(message)
    return value


def _constant(name: str) -> float:
    message = f"{name} is no number of JSON"
    raise RefusedJSON(message)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")
