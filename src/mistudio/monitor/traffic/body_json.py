"""From the bytes of a body to its JSON: unpacked within bounds, and told from a stream of events."""

import json
import re
import zlib
from typing import Any, NamedTuple

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.monitor.traffic.unread import Problems, Unread

_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_UTF8_BOM = b"\xef\xbb\xbf"
_STREAM = re.compile(rb"(?:data|event|id|retry)?:")
_BINARY_MARK = b"binary_data_size"


class Parsed(NamedTuple):
    """A body's JSON, and the bytes that follow it where a V2 body has binary tensors."""

    content: Any
    rest: bytes = b""


def unpacked(body: bytes, most: int, problems: Problems) -> bytes:
    """The body, without gzip; empty where it cannot be had, with the reason counted.

    Args:
        body: as it came.
        most: bytes.
        problems: where reasons are counted.
    """
    if body.startswith(_GZIP):
        body = _without_gzip(body, most, problems)
    elif not body:
        problems[Unread.EMPTY] += 1
    if len(body) > most:
        problems[Unread.TOO_LARGE] += 1
        return b""
    return body


def is_stream(body: bytes) -> bool:
    """Whether a body is a stream of server-sent events, whatever its content type says."""
    return _STREAM.match(body.removeprefix(_UTF8_BOM).lstrip()[:16]) is not None


def parsed(body: bytes, problems: Problems) -> Parsed | None:
    """A body's JSON; None where it has none, with the reason counted."""
    try:
        content = parse_json(body, finite=False)
        # A sender that writes a body into a field of a structured event may have written it as a text.
        return Parsed(parse_json(content, finite=False) if isinstance(content, str) else content)
    except RefusedJSON:
        found = _before_binary(body) if _BINARY_MARK in body else None
        if found is None:
            problems[Unread.NOT_JSON] += 1
        return found


def _before_binary(body: bytes) -> Parsed | None:
    """The JSON that a body with binary tensors begins with: where it ends is told by a header that no logger keeps."""
    try:
        _, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        return Parsed(parse_json(body[:end], finite=False), body[end:])
    except (ValueError, RecursionError):
        return None


def _without_gzip(body: bytes, most: int, problems: Problems) -> bytes:
    decoder = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = decoder.decompress(body, most + 1)
    except zlib.error:
        problems[Unread.BAD_GZIP] += 1
        return b""
    if not decoder.eof and len(content) <= most:
        problems[Unread.BAD_GZIP] += 1  # what came before it broke off is read all the same
    return content
