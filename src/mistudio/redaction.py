"""What must not be written down: secrets among settings, and in texts that go to disk or to a screen."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from mistudio.guarded_json import RefusedJSON, parse_json

_NAME = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|private_?key|signing_?key|secret|password|passwd|token|credentials?)$",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"(?:^|_)(?:api_?keys|secrets|passwords|tokens)$", re.IGNORECASE)
# Each pattern looks at a bounded number of characters from where it begins, since texts may be made to be slow to read.
# What is between :// and @ of an address, and what the common issuers of keys begin theirs with.
_VALUE = re.compile(
    r"(?<=://)[^/\s:@'\"]{0,200}:[^\s'\"]{0,200}(?=@)|\b(?:sk-|hf_|gh[pousr]_)[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b"
)
_WORDS = r"[\w-]{0,40}(?:api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|secret|passw(?:or)?d|credentials?)"
_QUOTE = r"\\{0,4}[\"']"
# What stands behind the name of a secret: in JSON or Python ("api_key": "..."), and in an address or a shell (key=...).
# A token is also a piece of a text, so that only a long one is taken for a secret.
_BEHIND_NAME = re.compile(
    rf"({_QUOTE}{_WORDS}{_QUOTE}\s*:\s*(?:{_QUOTE})?|\b{_WORDS}=(?:{_QUOTE})?|[?&](?:key|sig|signature|token)="
    rf"|{_QUOTE}[\w-]{{0,40}}token{_QUOTE}\s*:\s*{_QUOTE}(?=[^\s\"']{{16}}))(?!\*\*\*)[^\s\"'\\,}}&;]+",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=://)[^/\s@'\"]{1,200}(?=@)")
_QUERY = re.compile(
    r"://[^\s'\"]{0,2000}[?&](?:api[_-]?key|key|sig|signature|token|password|secret)=[^\s&]", re.IGNORECASE
)
_MIN_CHARS = 8  # shorter values of the environment are words that any text may have
_HIDDEN = "***"


class Secret:
    """A secret of this process, such as a key: without the white space around it, and never shown.

    Files and mounted secrets often end in a line break, which is no part of what they hold.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value.strip()

    @classmethod
    def from_environment(cls, names: Iterable[str]) -> Self:
        """The first of these variables that holds something; empty where none does."""
        return next((secret for name in names if (secret := cls(os.environ.get(name, "")))), cls())

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_HIDDEN})" if self else f"{type(self).__name__}()"

    def __reduce__(self) -> str:
        message = "a secret is not written down"
        raise TypeError(message)

    @property
    def is_sendable(self) -> bool:
        """Whether it can stand in a header: printable ASCII, in one word."""
        return self._value.isascii() and self._value.isprintable() and " " not in self._value

    @property
    def is_long(self) -> bool:
        """Whether a text that holds it can be taken to repeat it, instead of using a common word."""
        return len(self._value) >= _MIN_CHARS

    def reveal(self) -> str:
        """The secret itself, for the one who has to send it."""
        return self._value

    def hide_in(self, text: str) -> str:
        """The text without the secret; a short one, which may be part of other words, is hidden as a word."""
        if not self:
            return text
        if self.is_long:
            return text.replace(self._value, _HIDDEN)
        return re.sub(rf"(?<!\w){re.escape(self._value)}(?!\w)", _HIDDEN, text)


def secret_setting(settings: Mapping[str, object]) -> str | None:
    """The name of the first setting that looks like a secret, by its name or its value, also inside JSON."""
    return next(_secrets(settings), None)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without what looks like a secret, and without the values of the environment's secrets."""
    environment = os.environ if environment is None else environment
    for name, value in environment.items():
        for secret in map(Secret, _values(name, value)):
            if secret.is_long:
                text = secret.hide_in(text)
    text = _USER.sub(_HIDDEN, _VALUE.sub(_HIDDEN, text))
    return _BEHIND_NAME.sub(rf"\1{_HIDDEN}", text)


def _values(name: str, value: str) -> list[str]:
    """The secrets that a variable holds: one, several as name:secret with commas or line ends between them, or none."""
    if _NAME.search(name):
        return [value]
    if _SEVERAL.search(name):
        return [each.rpartition(":")[2] for each in value.replace(",", "\n").splitlines()]
    return []


def _secrets(settings: Mapping[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        if value in (None, ""):
            continue
        if _NAME.search(name) or (isinstance(value, str) and _is_secret(value)):
            yield name
        inside = _json_object(value) if isinstance(value, str) else value
        if isinstance(inside, Mapping):
            yield from (f"{name}.{each}" for each in _secrets(inside))


def _is_secret(value: str) -> bool:
    """Whether a value looks like a secret; an object that is not whole, like one that holds a secret's name."""
    broken = value.lstrip().startswith("{") and _json_object(value) is None and _BEHIND_NAME.search(value)
    return bool(_VALUE.search(value) or _QUERY.search(value) or broken)


def _json_object(text: str) -> object:
    """What a setting holds that is given as a JSON object, which not every text with a brace is."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return parse_json(text, finite=False)
    except RefusedJSON:
        return None
