"""The events of a stream, out of bytes as they come.

A line ends with a line feed and nothing else: text may hold other characters at which Python's ``splitlines`` ends one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mistudio.client.calls import refusal
from mistudio.errors import MistudioError
from mistudio.plain_text import shortened

_DONE = b"[DONE]"


class EventReader:
    """Reads one stream.

    Attributes:
        is_at_end: whether the server said that nothing follows.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.is_at_end = False

    def events(self, more: bytes) -> Iterator[Mapping[str, Any]]:
        """The events that are whole with these bytes, up to the stream's end.

        Raises:
            MistudioError: the answer failed on the way, or is none of ours.
        """
        *lines, self._rest = (self._rest + more).split(b"\n")
        for line in lines:
            if self.is_at_end:
                return
            if line.startswith(b"data:"):
                data = line.removeprefix(b"data:").strip()
                self.is_at_end = data == _DONE
                if not self.is_at_end:
                    yield _event(data)

    def check_end(self) -> None:
        """Refuse a stream that broke off.

        Raises:
            MistudioError: the server did not say that nothing follows.
        """
        if not self.is_at_end:
            message = "The answer broke off: the connection was closed before its end had come. Ask again."
            raise MistudioError(message)


def _event(data: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        message = f"The server sent what is no event: {shortened(data.decode(errors='replace'))}."
        raise MistudioError(message) from error
    if not isinstance(event, Mapping):
        message = f"The server sent what is no event: {shortened(event)}."
        raise MistudioError(message)
    if "error" in event:
        said = event["error"]
        status = said.get("status") if isinstance(said, Mapping) else None
        raise refusal(int(status or 500), {}, event)
    return event
