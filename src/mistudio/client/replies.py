"""What servers answer, as the client gives it."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer server may say more


class Usage(_Reply):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int


class Changed(_Reply):
    """A stretch of two answers: the same, or changed."""

    kind: str
    plain: str
    steered: str


class Compared(_Reply):
    """The answer without the edits beside that with them: see :class:`mistudio.steer.requests.Comparison`."""

    plain_text: str
    plain_reason: str
    diff: tuple[Changed, ...]
    kl: tuple[float | None, ...] = Field(description="nats, by token of the steered answer")
    perplexity: float | None = Field(description="of the steered answer under the model as it is")
    plain_perplexity: float | None
    watched_plain: tuple[tuple[float | None, ...], ...] | None = None
    dose: Mapping[str, float | None] = Field(
        description="norm of what was changed over the activation's, by hook point"
    )


class Text(_Reply):
    """One answer."""

    text: str
    finish_reason: str | None = Field(description="stop, length or content_filter")
    stop_reason: str | None = Field(None, description="what ended it, where that was a feature or a guard")
    watched: tuple[tuple[float | None, ...], ...] = Field((), description="by token, then by watched feature")
    comparison: Compared | None = None
    warnings: tuple[str, ...] = Field((), description="what is doubtful about what was asked for")
    logprobs: Mapping[str, Any] | None = Field(None, description="as OpenAI's API has them")
    usage: Usage | None = Field(None, description="of the request, all its answers together")


class Piece(_Reply):
    """What a streamed answer goes on with."""

    index: int
    text: str
    finish_reason: str | None = None
    stop_reason: str | None = None
    watched: tuple[tuple[float | None, ...], ...] = ()
    comparison: Compared | None = None
    warnings: tuple[str, ...] = ()


def texts_of(reply: Mapping[str, Any]) -> list[Text]:
    """All answers of a whole reply."""
    usage = reply.get("usage")
    return [
        Text.model_validate({**_common(choice), "logprobs": choice.get("logprobs"), "usage": usage})
        for choice in reply["choices"]
    ]


def pieces_of(event: Mapping[str, Any]) -> list[Piece]:
    """What one event of a stream says."""
    return [Piece.model_validate({**_common(choice), "index": choice["index"]}) for choice in event["choices"]]


def _common(choice: Mapping[str, Any]) -> dict[str, Any]:
    said = choice.get("message") or choice.get("delta") or {}
    text = choice["text"] if "text" in choice else said.get("content")
    return {
        "text": text or "",
        "finish_reason": choice.get("finish_reason"),
        "stop_reason": choice.get("stop_reason"),
        **(choice.get("steering") or {}),
    }
