"""How an endpoint is spoken to: never elsewhere than where it is, and never more read than an answer can have.

The client below follows no redirect, and looks at where the address leads (``mistudio.addresses``): a prompt, and the
key with it, goes to the configured address alone, and to no metadata service whatever the address says. It reads a
body up to a limit, counted as it comes and as it unpacks, so that a small body that unpacks to gigabytes is dropped
after the first of them that is too much.
"""

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import openai

from mistudio.addresses import Reach, send_guarded

_ERROR_BYTES = 65_536  # read of a body that says what went wrong
_largest: ContextVar[int] = ContextVar("largest_body", default=_ERROR_BYTES)
# They write addresses, headers and whole requests at their lower levels, prompts included.
_TALKATIVE = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")


class TooLarge(Exception):
    """A body that is larger than any answer to the request; sending the request again would not help."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client that reads bodies up to :func:`largest_body`, and follows no redirect."""

    def __init__(self) -> None:
        """Get ready; libraries that would log what is sent are quiet from here on."""
        super().__init__(follow_redirects=False, headers={"accept-encoding": "gzip"})
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)

    async def send(self, request: Any, *, stream: bool = False, **named: Any) -> Any:
        """The response with its body, unpacked; of a failure only the beginning.

        Raises:
            AddressRefused: the address leads where nothing is sent.
            TooLarge: the body of an answer passes the limit.
            ValueError: it is packed in a way that was not asked for, or cannot be unpacked.
        """
        plain = partial(super().send, stream=True, **{**named, "follow_redirects": False})
        response = await send_guarded(plain, request, Reach.TRUSTED)
        try:
            body = await _body(response)
        finally:
            await response.aclose()
        left_out = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in left_out]
        return type(response)(response.status_code, headers=headers, content=body, request=response.request)


@contextmanager
def largest_body(num_bytes: int) -> Iterator[None]:
    """Read no more of an answer than this, in this task."""
    token = _largest.set(num_bytes)
    try:
        yield
    finally:
        _largest.reset(token)


async def _body(response: Any) -> bytes:
    fine = 200 <= response.status_code < 300
    limit = _largest.get() if fine else _ERROR_BYTES
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", "deflate", ""):
        message = f"the answer is packed as {packing[:20]!r}, which was not asked for"
        raise ValueError(message)
    unpack = None if packing in ("identity", "") else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body, num_read = bytearray(), 0
    async for chunk in response.aiter_raw():
        num_read += len(chunk)
        body += chunk if unpack is None else _unpacked(unpack, chunk, limit + 1 - len(body))
        if max(len(body), num_read) > limit:
            if not fine:
                break
            message = f"the answer is larger than {limit:,} bytes"
            raise TooLarge(message)
    return bytes(body[:limit])


def _unpacked(unpack: Any, chunk: bytes, most: int) -> bytes:
    try:
        return bytes(unpack.decompress(chunk, most))
    except zlib.error as error:
        message = f"the answer cannot be unpacked ({error})"
        raise ValueError(message) from error
