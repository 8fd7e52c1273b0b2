"""Answers as JSON: what cannot be JSON is an error here, not a surprise at the client."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


class JSONReply(Response):
    """A whole answer."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(json_bytes(content), status, headers)


def json_bytes(content: Any) -> bytes:
    """Compact JSON in UTF-8, with escapes for halves of characters, which models can write.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
