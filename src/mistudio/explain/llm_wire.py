"""Requests and answers as the OpenAI API writes them: chat completions, completions with echo, and embeddings."""

from typing import Any

from mistudio.explain.judge import AnswerToken, Chat, Embedding, Likelihood, Reply, Request, Usage

_BYTES_A_TOKEN = 3  # fewer than most tokenizers need, so that a budget errs on the safe side


class Malformed(ValueError):
    """An answer that lacks what it must have; it may be there the next time."""


def arguments_of(request: Request, model: str, limit_field: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What to call the client with."""
    if isinstance(request, Embedding):
        return {"model": model, "input": list(request.texts), "encoding_format": "float"}
    common = {"model": model, **{name: value for name, value in settings.items() if value is not None}}
    if isinstance(request, Likelihood):
        # One token is generated and thrown away: some servers refuse to generate none.
        return {**common, "prompt": request.prompt + request.text, "echo": True, "logprobs": 1, "max_tokens": 1}
    messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.prompt}]
    arguments = {**common, "messages": messages, limit_field: request.max_tokens}
    if request.alternatives:
        arguments |= {"logprobs": True, "top_logprobs": request.alternatives}
    return arguments


def read_answer(request: Request, response: Any) -> Reply:
    """The reply in what the client returned.

    Raises:
        Malformed: a part that must be there is missing.
    """
    try:
        if isinstance(request, Chat):
            return _read_chat(request, response)
        return _read_loss(request, response) if isinstance(request, Likelihood) else _read_vectors(request, response)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        message = f"the answer lacks what it must have ({error})"
        raise Malformed(message) from error


def estimated_tokens(request: Request) -> int:
    """About how many tokens a request will take, read and written."""
    if isinstance(request, Chat):
        return _tokens_in(request.system + request.prompt) + request.max_tokens
    if isinstance(request, Likelihood):
        return _tokens_in(request.prompt + request.text) + 1
    return sum(map(_tokens_in, request.texts))


def _tokens_in(text: str) -> int:
    return len(text.encode()) // _BYTES_A_TOKEN + 1


def _read_chat(request: Chat, response: Any) -> Reply:
    choice = response.choices[0]
    text = choice.message.content or ""
    details = getattr(choice.logprobs, "content", None) if choice.logprobs else None
    return Reply(
        text=text,
        tokens=tuple(map(_read_token, details)) if details else None,
        usage=_usage(response, request, text),
        truncated=choice.finish_reason == "length",
    )


def _read_token(detail: Any) -> AnswerToken:
    considered = {detail.token: detail.logprob} | {other.token: other.logprob for other in detail.top_logprobs or ()}
    return AnswerToken(detail.token, tuple((text, float(logprob)) for text, logprob in considered.items()))


def _read_loss(request: Likelihood, response: Any) -> Reply:
    """The mean over the tokens that reach into the text; one that begins in the prompt counts too."""
    details = response.choices[0].logprobs
    first, stop, start = len(request.prompt), len(request.prompt) + len(request.text), 0
    counted = []
    for token, logprob in zip(details.tokens, details.token_logprobs, strict=True):
        if start < stop and start + len(token) > first and logprob is not None:
            counted.append(float(logprob))
        start += len(token)
    if not counted:
        message = "no log-probabilities for the text"
        raise Malformed(message)
    return Reply(loss=-sum(counted) / len(counted), usage=_usage(response, request, ""))


def _read_vectors(request: Embedding, response: Any) -> Reply:
    vectors = tuple(tuple(map(float, entry.embedding)) for entry in sorted(response.data, key=lambda one: one.index))
    if len(vectors) != len(request.texts):
        message = f"{len(vectors)} vectors for {len(request.texts)} texts"
        raise Malformed(message)
    return Reply(vectors=vectors, usage=_usage(response, request, ""))


def _usage(response: Any, request: Request, text: str) -> Usage:
    """Tokens as the endpoint counts them, or about as many where it does not."""
    usage = getattr(response, "usage", None)
    if usage is not None and usage.prompt_tokens is not None:
        return Usage(int(usage.prompt_tokens), int(getattr(usage, "completion_tokens", 0) or 0))
    written = _tokens_in(text) if isinstance(request, Chat) else 0
    read = estimated_tokens(request._replace(max_tokens=0)) if isinstance(request, Chat) else estimated_tokens(request)
    return Usage(read, written)
