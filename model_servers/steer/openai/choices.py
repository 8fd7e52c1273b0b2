"""The parts of OpenAI's answers: choices and their log-probabilities, whole and streamed."""

from collections.abc import Sequence
from typing import Any, Protocol

from mistudio.steer.requests import Delta, Finished, GenerationRequest, TokenLogprob
from model_servers.steer.answers import LEAST_LOGPROB, Answer, finite

Choice = dict[str, Any]


class Shape(Protocol):
    """How an endpoint writes its answers.

    Attributes:
        api: what metrics call it.
        prefix: of the ids of answers.
        object_name: of a whole answer.
        chunk_name: of a part of a streamed one.
    """

    api: str
    prefix: str
    object_name: str
    chunk_name: str

    def choice(self, answer: Answer, request: GenerationRequest) -> Choice:
        """A whole choice, without what all endpoints write alike."""

    def opening(self) -> Choice | None:
        """What a streamed choice begins with, if anything."""

    def delta(self, delta: Delta, request: GenerationRequest, offset: int) -> Choice:
        """A part of a streamed choice; ``offset`` counts the characters before it."""

    def closing(self) -> Choice:
        """What a streamed choice ends with."""


class CompletionShape:
    """Choices of /completions."""

    api, prefix, object_name, chunk_name = "completions", "cmpl", "text_completion", "text_completion"

    def choice(self, answer: Answer, request: GenerationRequest) -> Choice:
        """A whole choice."""
        return {"text": answer.text, "logprobs": self._logprobs(answer.logprobs, request, 0)}

    def opening(self) -> Choice | None:
        """Nothing."""
        return None

    def delta(self, delta: Delta, request: GenerationRequest, offset: int) -> Choice:
        """A part of the text."""
        return {"text": delta.text, "logprobs": self._logprobs(delta.logprobs or (), request, offset)}

    def closing(self) -> Choice:
        """An end without text."""
        return {"text": "", "logprobs": None}

    def _logprobs(
        self, tokens: Sequence[TokenLogprob], request: GenerationRequest, offset: int
    ) -> dict[str, Any] | None:
        if request.logprobs is None:
            return None
        offsets: list[int] = []
        for each in tokens:
            offsets.append(offset)
            offset += len(each.token)
        return {
            "tokens": [each.token for each in tokens],
            "token_logprobs": [finite(each.logprob) for each in tokens],
            "top_logprobs": [_by_token(each.top) for each in tokens] if request.logprobs else None,
            "text_offset": offsets,
        }


class ChatShape:
    """Choices of /chat/completions."""

    api, prefix, object_name, chunk_name = "chat", "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, answer: Answer, request: GenerationRequest) -> Choice:
        """A whole choice."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(answer.logprobs, request)}

    def opening(self) -> Choice | None:
        """Who speaks."""
        return {"delta": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None}

    def delta(self, delta: Delta, request: GenerationRequest, offset: int) -> Choice:
        """A part of the text."""
        return {"delta": {"content": delta.text}, "logprobs": self._logprobs(delta.logprobs or (), request)}

    def closing(self) -> Choice:
        """An end without text."""
        return {"delta": {}, "logprobs": None}

    def _logprobs(self, tokens: Sequence[TokenLogprob], request: GenerationRequest) -> dict[str, Any] | None:
        if request.logprobs is None:
            return None
        content = [_token(each) | {"top_logprobs": list(map(_token, each.top))} for each in tokens]
        return {"content": content, "refusal": None}


def ending(finished: Finished | None) -> dict[str, Any]:
    """Why a choice ended; what ended it, where that was a feature or a guard, as vLLM calls it."""
    if finished is None:
        return {"finish_reason": None}
    detail = {} if finished.detail is None else {"stop_reason": finished.detail}
    return {"finish_reason": finished.reason, **detail}


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.bytes)}


def _by_token(tokens: Sequence[TokenLogprob]) -> dict[str, float]:
    """Log-probabilities by text; of tokens that read alike, such as parts of a character, the likeliest."""
    found: dict[str, float] = {}
    for each in tokens:
        found[each.token] = max(finite(each.logprob), found.get(each.token, LEAST_LOGPROB))
    return found
