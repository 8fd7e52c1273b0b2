"""Lanes of a server: what kind of request is asked at a path, which says how many there may be and for how long."""

from collections.abc import Mapping
from enum import Enum

from starlette.types import Scope


class Lane(Enum):
    """What a request is to the server.

    A ``REQUEST`` is asked and answered within a time. A ``STREAM``, of server-sent events or a WebSocket, goes on until
    either side ends it: the time holds until it begins, and then for each piece that its client takes. A ``SINK`` takes
    something in and answers at once: it has places of its own and no rate, so that it never waits for what is computed.
    The route of a sink must not wait for anything but its body: no lock, no thread of a pool that others use.
    """

    REQUEST = "request"
    STREAM = "stream"
    SINK = "sink"


def lane_of(scope: Scope, lanes: Mapping[str, Lane]) -> Lane:
    """The lane of a request, by its path; a WebSocket is always a stream."""
    if scope["type"] == "websocket":
        return Lane.STREAM
    return lanes.get(scope["path"], Lane.REQUEST)
