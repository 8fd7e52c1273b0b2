"""What must not be written down: secrets among settings, and in texts that go to disk."""

import os
import re
from collections.abc import Iterator, Mapping

from mistudio.guarded_json import RefusedJSON, parse_json

_NAME = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|private_?key|secret|password|passwd|token|credentials?)$", re.IGNORECASE
)
# What is between :// and @ of an address, and what the common issuers of keys begin theirs with.
_VALUE = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)|\b(?:sk-|hf_|gh[pousr]_)[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b")
_MIN_CHARS = 8  # shorter values of the environment are words that any text may have
_HIDDEN = "***"


def secret_setting(settings: Mapping[str, object]) -> str | None:
    """The name of the first setting that looks like a secret, by its name or its value, also inside JSON."""
    return next(_secrets(settings), None)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without what looks like a secret, and without the values of the environment's secrets."""
    environment = os.environ if environment is None else environment
    for name, value in environment.items():
        if _NAME.search(name) and len(value) >= _MIN_CHARS:
            text = text.replace(value, _HIDDEN)
    return _VALUE.sub(_HIDDEN, text)


def _secrets(settings: Mapping[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        if value in (None, ""):
            continue
        if _NAME.search(name) or (isinstance(value, str) and _VALUE.search(value)):
            yield name
        inside = _json_object(value) if isinstance(value, str) else value
        if isinstance(inside, Mapping):
            yield from (f"{name}.{each}" for each in _secrets(inside))


def _json_object(text: str) -> object:
    """What a setting holds that is given as a JSON object, which not every text with a brace is."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return parse_json(text, finite=False)
    except RefusedJSON:
        return None
