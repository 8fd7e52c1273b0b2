"""What is particular to WebSockets: keys of browsers, pages of other sites, and how a connection is closed."""

import base64
import binascii

from starlette.types import Scope, Send

from model_servers.base.problems import Problem, content_of
from model_servers.base.replies import json_bytes

SUBPROTOCOL = "bearer"  # offered beside a key, by clients that cannot send the header Authorization
RESTART = 1012  # the server ends: come back
_HEADER = b"sec-websocket-protocol"
_WRONG, _FAILED, _LATER = 1008, 1011, 1013
_MAX_REASON_BYTES = 120  # of the 125 that a closing frame holds, two are the code's


def offered_keys(scope: Scope) -> list[str]:
    """The key that a client offers as a subprotocol behind ``bearer``, as it is and decoded from base64url.

    A browser cannot send headers with a WebSocket; a key in the address would end up in logs of proxies.
    """
    offered = [str(each) for each in scope.get("subprotocols", ())]
    if len(offered) != 2 or offered[0].lower() != SUBPROTOCOL:
        return []
    return [offered[1], *_decoded(offered[1])]


def drop_key(scope: Scope) -> None:
    """Leave nothing in the scope that could show a key: routes get it so."""
    scope["headers"] = [each for each in scope["headers"] if each[0] != _HEADER]
    scope["subprotocols"] = []


def close_code(problem: Problem) -> int:
    """The code that says to a client what went wrong, once its connection is open."""
    if problem.status in (429, 503):
        return RESTART if problem.code == "draining" else _LATER
    return _WRONG if problem.status < 500 else _FAILED


async def close(send: Send, problem: Problem) -> None:
    """Tell a client what is wrong, in a closing frame."""
    reason = problem.message.encode(errors="replace")[:_MAX_REASON_BYTES].decode(errors="ignore")
    await send({"type": "websocket.close", "code": close_code(problem), "reason": reason})


def event_of(problem: Problem, path: str) -> bytes:
    """The same as the last event of a stream of server-sent events."""
    return b"data: " + json_bytes(content_of(problem, path)) + b"\n\n"


def _decoded(text: str) -> list[str]:
    try:
        return [base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()]
    except (binascii.Error, ValueError):
        return []
