"""What the server answers where it refuses: the API's Status object with code, reason and details."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refusal(Exception):
    """A request that is not done."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.headers = code, dict(headers or {})
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or _REASONS.get(code, "Unknown"),
            "details": dict(details or {}),
            "code": code,
        }


def invalid(kind: str, name: str, causes: Sequence[tuple[str, str]]) -> Refusal:
    """422 with its causes: the field of each, and what is wrong with it."""
    listed = [{"reason": "FieldValueInvalid", "field": field, "message": said} for field, said in causes]
    said = ", ".join(f"{field}: {message}" for field, message in causes)
    text = said if len(listed) == 1 else f"[{said}]"
    details = {"name": name, "kind": kind, "causes": listed}
    return Refusal(422, f'{kind} "{name}" is invalid: {text}', details=details)


def not_found(resource: str, name: str) -> Refusal:
    return Refusal(404, f'{resource} "{name}" not found', details={"name": name, "kind": resource.split(".")[0]})


def unknown_path() -> Refusal:
    """What is said of a resource that the cluster does not have, such as one whose CRD is not installed."""
    return Refusal(404, "the server could not find the requested resource")


def check_name(kind: str, name: str) -> None:
    """Names are those of DNS."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name):
        message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        raise invalid(kind, name, [("metadata.name", f"Invalid value: {name!r}: {message}")])
