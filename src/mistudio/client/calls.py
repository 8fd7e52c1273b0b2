"""What the client sends, and what it makes of refusals; the same for both kinds of client."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import httpx
from pydantic import BaseModel

from mistudio.errors import Busy, Draining, InputError, MistudioError, NotFound, Unavailable
from mistudio.plain_text import shortened

EditLike = Mapping[str, Any] | BaseModel
MessageLike = Mapping[str, str] | BaseModel
_MOST_WAIT_S = 30.0


class Options(TypedDict, total=False):
    """How a text is generated; what is not given is the server's choice."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n: int
    stop: Sequence[str]
    seed: int
    logit_bias: Mapping[int, float]
    logprobs: int
    ignore_eos: bool


class Steered(TypedDict, total=False):
    """What is done to the model meanwhile."""

    edits: Sequence[EditLike]
    stop_when: Sequence[EditLike]
    preset: str
    preset_strength: float
    compare: bool
    watch: Sequence[int | EditLike]


class Asked(Options, Steered, total=False):
    """All that can be asked for beside the prompt."""


class Call(NamedTuple):
    """A request to a server."""

    path: str
    body: dict[str, Any]


def generation(
    model: str,
    prompt: str | Sequence[int] | None,
    messages: Sequence[MessageLike] | None,
    asked: Asked,
    *,
    stream: bool,
) -> Call:
    """The request for text behind a prompt or a chat."""
    steering = {name: asked[name] for name in Steered.__annotations__ if name in asked}  # type: ignore[literal-required]
    body: dict[str, Any] = {name: asked[name] for name in Options.__annotations__ if name in asked}  # type: ignore[literal-required]
    body["model"] = model
    if stream:
        body["stream"] = True
    if steering:
        body["steering"] = steering
    if messages is None:
        return Call("/openai/v1/completions", plain({**body, "prompt": prompt}))
    if "logprobs" in body:  # as OpenAI's API has it in chats
        body["logprobs"], body["top_logprobs"] = True, body["logprobs"]
    return Call("/openai/v1/chat/completions", plain({**body, "messages": messages}))


def plain(value: Any) -> Any:
    """A value as JSON has it, with the models' own fields where one is given."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=False, exclude_none=True)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def checked(status: int, headers: Mapping[str, str], content: bytes) -> Any:
    """The JSON of a reply.

    Raises:
        InputError: the request cannot be done as asked.
        NotFound: what it names is not there.
        Busy: too many wait already.
        Draining: the server is about to end, or is not ready yet.
        MistudioError: it failed, or is no server of ours.
    """
    try:
        reply = json.loads(content) if content else {}
    except ValueError:
        reply = {}
    if status < 400 and reply:  # noqa: PLR2004 - where HTTP's refusals begin
        return reply
    raise refusal(status, headers, reply if isinstance(reply, Mapping) else {}, content)


def refusal(status: int, headers: Mapping[str, str], reply: Mapping[str, Any], content: bytes = b"") -> MistudioError:
    """What a server's refusal is to the caller."""
    error = reply.get("error")
    said = error.get("message") if isinstance(error, Mapping) else error
    message = str(said or reply.get("detail") or shortened(content.decode(errors="replace")) or "no more is said")
    match status:
        case 429:
            return Busy(message, wait_s(headers))
        case 503:
            return Draining(message)
        case 404:
            return NotFound(message)
        case _ if 400 <= status < 500:  # noqa: PLR2004
            return InputError(message)
    return MistudioError(f"The server failed with status {status}: {message}")


def unreachable(url: str, error: httpx.TransportError) -> Unavailable:
    """What it is to the caller that no server answers, or that one stopped in the middle."""
    why = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
        return Unavailable(f"No server answers at {url}: {why}. Is it started, and the URL right?")
    if isinstance(error, httpx.TimeoutException):
        return Unavailable(f"The server at {url} did not answer in time ({why}): give it longer with timeout_s.")
    return Unavailable(f"The connection to the server at {url} broke off ({why}): what it was asked is not answered.")


def wait_s(headers: Mapping[str, str]) -> float:
    """Seconds to wait before asking again, as a server says."""
    try:
        return min(max(float(headers.get("retry-after", "1")), 0.0), _MOST_WAIT_S)
    except ValueError:
        return 1.0
