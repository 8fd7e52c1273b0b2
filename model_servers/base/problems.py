"""What is answered instead of what was asked for: a status, a message, and what went wrong in words for programs.

Under /openai an answer has the shape of OpenAI's errors, elsewhere that of KServe's.
"""

import logging
import math
import re
from dataclasses import dataclass
from typing import Any

from kserve.errors import InvalidInput
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mistudio.errors import Busy, Draining, InputError, NotFound, Unavailable
from mistudio.plain_text import shortened, without_surrogates
from mistudio.settings import problems_in
from model_servers.base.replies import JSONReply

_log = logging.getLogger("model_servers")
_FIELD = re.compile(r"([a-z_]+(?:\.[a-z_]+|\[\d{1,6}\]){0,8}): ")
_MAX_NAMED = 3  # of many that are wrong with one request
_EDITS, _RULES = ("add", "clamp", "scale", "ablate", "cap"), ("threshold", "rate", "set")
_EXAMPLES = ("text", "messages")
_UNION_TAGS = frozenset({*_EDITS, *_RULES, *_EXAMPLES})  # pydantic puts them into the place of an error
_OF_A_NAME = "[key]"  # ... and this, where a name in an object is wrong


@dataclass(frozen=True)
class Problem:
    """What is wrong.

    Attributes:
        status: of HTTP.
        message: for people: what, with which value, what to do.
        code: for programs.
        param: the field of the request that is wrong.
        retry_after_s: when to try again.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None

    @property
    def type(self) -> str:
        """What OpenAI calls this kind of error."""
        by_status = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        if self.status >= 500:
            return {503: "service_unavailable_error", 504: "timeout_error"}.get(self.status, "server_error")
        return by_status.get(self.status, "invalid_request_error")


class Refused(Exception):
    """A request is not answered; the problem says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code or problem.type)
        self.problem = problem


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


def wrong(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> Refused:
    """The client's fault."""
    return Refused(Problem(status, message, code, param))


def too_busy(message: str, retry_after_s: float, code: str = "too_busy") -> Refused:
    """More is asked for at the moment than is answered."""
    return Refused(Problem(429, message, code, retry_after_s=retry_after_s))


def unavailable(message: str, retry_after_s: float, code: str) -> Refused:
    """Nothing is answered at the moment."""
    return Refused(Problem(503, message, code, retry_after_s=retry_after_s))


def draining() -> Refused:
    """The server is about to end."""
    return unavailable("The server is about to end: ask another, or again in a moment.", 5, "draining")


def timed_out(after_s: float) -> Problem:
    """A request took longer than one may."""
    message = f"The request took longer than {after_s:g} seconds, the most that one may take: ask for less at once."
    return Problem(504, message, "request_timeout")


def problem_of(error: BaseException) -> Problem:
    """What to answer for an exception. One that nobody raised on purpose is told nobody, but logged."""
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, ClientLeft):
        return Problem(499, "The client left.", "client_left")
    if isinstance(error, Unavailable):
        return _unavailable(error)
    if isinstance(error, NotFound):
        return Problem(404, str(error), "not_found", _field_in(str(error)))
    if isinstance(error, InputError):
        return Problem(400, str(error), "invalid_value", _field_in(str(error)))
    if isinstance(error, InvalidInput):
        return Problem(400, str(InputError(error.reason)), "invalid_value")
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), "not_found" if error.status_code == 404 else None)
    _log.error("failed", exc_info=error)
    return Problem(500, "Something went wrong in the server; its log says more under this request's id.", "internal")


def _field_in(message: str) -> str | None:
    """The field that a message begins with, as in ``stop[0]: ...``."""
    found = _FIELD.match(message)
    return found[1] if found else None


def _unavailable(error: Unavailable) -> Problem:
    if isinstance(error, Busy):
        return Problem(429, str(error), "too_busy", retry_after_s=error.retry_after_s)
    code = "draining" if isinstance(error, Draining) else "unavailable"
    return Problem(503, str(error), code, retry_after_s=5)


def problem_of_fields(error: ValidationError, renamed: dict[str, str] | None = None, above: str = "") -> Problem:
    """What is wrong with which fields.

    Args:
        error: what pydantic found.
        renamed: what the client knows fields by, where that differs; by their dotted paths.
        above: the field that holds all of it.
    """
    found = problems_in(error)
    named = [(_path(each["loc"], renamed or {}, above), each) for each in found[:_MAX_NAMED]]
    reasons = [_reason(path, each["type"], each["msg"], each["input"]) for path, each in named]
    more = f"; and {len(found) - _MAX_NAMED:,} more" if len(found) > _MAX_NAMED else ""
    message = str(InputError("; ".join(reasons) + more + "."))  # without secrets and endless words
    return Problem(400, message, _code(str(named[0][1]["type"])), named[0][0] or None)


def reply_of(problem: Problem, path: str) -> Response:
    """The answer, in the shape that clients of this path expect."""
    headers = {}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(problem.retry_after_s)))
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONReply(content_of(problem, path), problem.status, headers)


def content_of(problem: Problem, path: str) -> dict[str, Any]:
    """The body of an answer that says what is wrong."""
    message = without_surrogates(problem.message)
    if not path.startswith("/openai"):
        return {"error": message}
    param = None if problem.param is None else without_surrogates(problem.param)
    return {"error": {"message": message, "type": problem.type, "param": param, "code": problem.code}}


def _path(location: tuple[int | str, ...], renamed: dict[str, str], above: str) -> str:
    path = above
    for before, part in zip((None, *location), location, strict=False):
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != _OF_A_NAME and part[:1] != "~" and not (isinstance(before, int) and part in _UNION_TAGS):
            path += f".{part}" if path else part
    for inner, outer in renamed.items():
        if path == inner or path.startswith((f"{inner}.", f"{inner}[")):
            path = outer + path.removeprefix(inner)
            break
    return path if len(path) <= 200 else f"{path[:200]}…"


def _reason(path: str, kind: str, text: str, value: object) -> str:
    if kind == "value_error":
        return text.removeprefix("Value error, ")  # our own validators name the field themselves
    if kind == "extra_forbidden":
        return f"{path} is unknown here: leave it out"
    text = text[:1].lower() + text[1:]
    shown = "" if kind == "missing" else f", not {shortened(value)}"
    return f"{path or 'the body'}: {text}{shown}"


def _code(kind: str) -> str:
    return {"missing": "missing_field", "extra_forbidden": "unknown_field"}.get(kind, "invalid_value")
