"""What the API's refusals are to the caller: which right is missing, which field is wrong, what to install."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mistudio.errors import ClusterError, ClusterUnreachable, Conflict, NotAllowed
from mistudio.plain_text import shortened

if TYPE_CHECKING:
    from mistudio.cluster.resources import Request

_MOST_CHARACTERS = 600
_KINDS: Mapping[int, type[ClusterError]] = {401: NotAllowed, 403: NotAllowed, 409: Conflict}
_UNKNOWN_KIND = "UnknownKind"  # in place of the reason NotFound, which objects have that are not there


def refused(
    request: "Request", status: int, body: str, headers: Mapping[str, str], hide: Callable[[str], str]
) -> ClusterError:
    """The error of an answer with a status that says no."""
    content = _content(body)
    reason, said = str(content.get("reason") or ""), _cut(hide(str(content.get("message") or body)))
    if status == 404 and not (content.get("details") or {}).get("name"):  # noqa: PLR2004
        reason = _UNKNOWN_KIND
    kind = _KINDS.get(status, ClusterError)
    return kind(_message(request, status, reason, said), status, reason, _wait_s(headers))


def unreachable(request: "Request", host: str, error: Exception, hide: Callable[[str], str]) -> ClusterError:
    """The error of an API that does not answer."""
    why = _cut(hide(str(error))) or type(error).__name__
    message = (
        f"The API of the cluster at {host} does not answer when asked to {request} ({why}). Is it reachable from here, "
        "and do network policies let this pod speak to it?"
    )
    return ClusterUnreachable(message)


def _message(request: "Request", status: int, reason: str, said: str) -> str:
    match status:
        case 401:
            return (
                f"The cluster does not accept who asks to {request}: the token is unknown or has expired. Log in to it "
                "again, or start the pod anew."
            )
        case 403:
            return (
                f"The account lacks the right to {request} ({said}). A Role with that verb, bound to the account in "
                "that namespace, gives it."
            )
        case 404 if reason == _UNKNOWN_KIND:
            resource = request.resource
            operator = f" Install {resource.operator}." if resource.operator else ""
            return f"The cluster does not know {resource.plural} of {resource.api_version}.{operator}"
        case 400 | 422:
            return f"The cluster refuses the object as it is, asked to {request}: {said}"
        case 409:
            return f"Asked to {request}, the cluster says: {said}"
    return f"The cluster cannot {request} now (status {status}): {said}"


def _wait_s(headers: Mapping[str, str]) -> float:
    try:
        return max(float(headers.get("Retry-After", 0)), 0.0)
    except ValueError:  # a date, which the API does not send
        return 0.0


def _content(body: str) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, Mapping) else {}


def _cut(text: str) -> str:
    """What fits into a message."""
    return text if len(text) <= _MOST_CHARACTERS else shortened(text, _MOST_CHARACTERS)
