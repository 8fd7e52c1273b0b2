"""Bodies of requests, read within bounds: objects of JSON in UTF-8, and nothing else."""

from typing import Any

from starlette.requests import ClientDisconnect, Request

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import has_surrogates, shortened
from model_servers.base.problems import ClientLeft, wrong


async def read_body(request: Request) -> bytes:
    """The whole body of a request that says it is JSON.

    A page of another site can make a browser send text, but not JSON without asking first; so nothing else is read.

    Raises:
        Refused: it is of another type.
        ClientLeft: the client left before all of it had come.
    """
    check_content_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise ClientLeft from error


def check_content_type(content_type: str, encoding: str = "") -> None:
    """Refuse a body that is not JSON in UTF-8.

    Raises:
        Refused: it is of another type, in another character set, or compressed.
    """
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if kind != "application/json" or any(each.startswith("charset=") and "utf-8" not in each for each in parameters):
        message = f"Content-Type is {shortened(content_type)}: send application/json in UTF-8."
        raise wrong(message, code="unsupported_media_type", status=415)
    if encoding.strip().lower() not in ("", "identity"):
        message = f"Content-Encoding is {shortened(encoding)}: send the body as it is."
        raise wrong(message, code="unsupported_media_type", status=415)


def json_object(body: bytes, what: str = "The body") -> dict[str, Any]:
    """The object in a body.

    Raises:
        Refused: it is no JSON in UTF-8, no object, or passes a bound.
    """
    try:
        content = parse_json(body.decode())
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8, from byte {error.start} on."
        raise wrong(message, code="invalid_json") from error
    except RefusedJSON as error:
        message = f"{what} is not JSON that is read here: {error}."
        raise wrong(message, code="invalid_json") from error
    if not isinstance(content, dict):
        message = f"{what} has to be an object, such as {{...}}, not {shortened(content)}."
        raise wrong(message, code="invalid_json")
    if b"\\u" in body and _holds_surrogates(content):
        message = f"{what} holds half of a surrogate pair, such as \\ud800, which is no text: leave it out."
        raise wrong(message, code="invalid_json")
    return content


def _holds_surrogates(content: Any) -> bool:
    """Whether any text in it cannot be written as UTF-8; without a call for each level."""
    level = [content]
    while level:
        texts = [each for each in level if isinstance(each, str)]
        texts += [name for each in level if isinstance(each, dict) for name in each]
        if any(map(has_surrogates, texts)):
            return True
        holders = [each for each in level if isinstance(each, dict | list)]
        level = [member for each in holders for member in (each.values() if isinstance(each, dict) else each)]
    return False
