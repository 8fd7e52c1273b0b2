"""Requests and answers as the OpenAI API writes them: chat completions, completions with echo, and embeddings."""

import json
from typing import Any

from mistudio.explain.judge import AnswerToken, Chat, Embedding, Likelihood, Reply, Request, Usage
from mistudio.explain.llm_checks import Malformed, bounded_logprob, check_reply, plausible_usage, well_formed

_BYTES_A_TOKEN = 3  # fewer than most tokenizers need, so that a budget errs on the safe side
_MOST_BYTES_A_TOKEN = 16  # more than any tokenizer's tokens have on average: an endpoint that counts fewer is wrong
_ROOM_BYTES = 1 << 20  # of a body, for all that is not tokens: names, reasons, thoughts
_TOKEN_BYTES = 512  # of a body, for a token with its log-probability and bytes
_VECTOR_BYTES = 1 << 18  # of a body, for some 12,000 numbers


def arguments_of(request: Request, model: str, limit_field: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What to call the client with."""
    if isinstance(request, Embedding):
        return {"model": model, "input": list(map(well_formed, request.texts)), "encoding_format": "float"}
    common = {"model": model, **{name: value for name, value in settings.items() if value is not None}}
    if isinstance(request, Likelihood):
        # One token is generated and thrown away: some servers refuse to generate none.
        return {**common, "prompt": _whole(request), "echo": True, "logprobs": 1, "max_tokens": 1}
    messages = [
        {"role": role, "content": well_formed(text)}
        for role, text in (("system", request.system), ("user", request.prompt))
    ]
    arguments = {**common, "messages": messages, limit_field: request.max_tokens}
    if request.alternatives:
        arguments |= {"logprobs": True, "top_logprobs": request.alternatives}
    return arguments


def read_answer(request: Request, body: bytes) -> Reply:
    """The reply in the body of a response, checked.

    Raises:
        Malformed: it is no JSON, or a part that must be there is missing or not what it should be.
    """
    try:
        content = json.loads(body)
        if isinstance(request, Chat):
            reply = _read_chat(request, content)
        elif isinstance(request, Likelihood):
            reply = _read_loss(request, content)
        else:
            reply = _read_vectors(request, content)
        return check_reply(request, reply)
    except Malformed:
        raise
    except (AttributeError, LookupError, TypeError) as error:
        message = "the answer lacks what it must have"
        raise Malformed(message) from error
    # Nested too deep, or with numbers of thousands of digits, is beyond what any answer needs.
    except (ValueError, OverflowError, RecursionError) as error:
        message = f"the answer is no JSON that can be read ({type(error).__name__})"
        raise Malformed(message) from error


def with_own_count(request: Request, reply: Reply) -> Reply:
    """The reply with tokens counted by ourselves where those that it came with cannot be right."""
    return reply._replace(usage=_usage(reply.usage.prompt_tokens, reply.usage.completion_tokens, request, reply.text))


def largest_answer(request: Request) -> int:
    """The bytes beyond which the body of an answer cannot be one."""
    if isinstance(request, Chat):
        return _ROOM_BYTES + _TOKEN_BYTES * request.max_tokens * (1 + request.alternatives)
    if isinstance(request, Likelihood):
        return _ROOM_BYTES + _TOKEN_BYTES * (_bytes_of(request) + 1)
    return _ROOM_BYTES + _VECTOR_BYTES * len(request.texts)


def estimated_tokens(request: Request) -> int:
    """About how many tokens a request will take, read and written."""
    written = request.max_tokens if isinstance(request, Chat) else int(isinstance(request, Likelihood))
    return _read_tokens(request) + written


def _read_tokens(request: Request) -> int:
    if isinstance(request, Embedding):
        return sum(map(_tokens_in, request.texts))
    return _bytes_of(request) // _BYTES_A_TOKEN + 1


def _tokens_in(text: str) -> int:
    return _num_bytes(text) // _BYTES_A_TOKEN + 1


def _num_bytes(text: str) -> int:
    return len(well_formed(text).encode())


def _bytes_of(request: Request) -> int:
    """The bytes of all that is read."""
    if isinstance(request, Embedding):
        return sum(map(_num_bytes, request.texts))
    return _num_bytes(request.system + request.prompt) if isinstance(request, Chat) else _num_bytes(_whole(request))


def _whole(request: Likelihood) -> str:
    return well_formed(request.prompt) + well_formed(request.text)


def _read_chat(request: Chat, content: Any) -> Reply:
    choice = content["choices"][0]
    said = choice["message"]["content"]
    text = "" if said is None else well_formed(said)
    details = (choice.get("logprobs") or {}).get("content")
    return Reply(
        text=text,
        tokens=tuple(map(_read_token, details)) if details else None,
        usage=_usage_in(content, request, text),
        truncated=choice.get("finish_reason") == "length",
    )


def _read_token(detail: Any) -> AnswerToken:
    considered = [detail, *(detail.get("top_logprobs") or ())]
    logprobs = {well_formed(each["token"]): bounded_logprob(each["logprob"]) for each in considered}
    return AnswerToken(well_formed(detail["token"]), tuple(logprobs.items()))


def _read_loss(request: Likelihood, content: Any) -> Reply:
    """The mean over the tokens that reach into the text; one that begins in the prompt counts too."""
    details = content["choices"][0]["logprobs"]
    first, stop, start = len(request.prompt), len(request.prompt) + len(request.text), 0
    counted = []
    for token, logprob in zip(details["tokens"], details["token_logprobs"], strict=True):
        if start < stop and start + len(well_formed(token)) > first and logprob is not None:
            counted.append(bounded_logprob(logprob))
        start += len(token)
    if not counted:
        message = "no log-probabilities for the text"
        raise Malformed(message)
    # Zero less the mean: its negative would be -0.0 where every token is certain.
    return Reply(loss=0.0 - sum(counted) / len(counted), usage=_usage_in(content, request, ""))


def _read_vectors(request: Embedding, content: Any) -> Reply:
    found = {entry.get("index", place): entry["embedding"] for place, entry in enumerate(content["data"])}
    if len(content["data"]) != len(request.texts) or sorted(found) != list(range(len(request.texts))):
        message = f"{len(content['data'])} vectors for {len(request.texts)} texts, or others than those asked for"
        raise Malformed(message)
    vectors = tuple(tuple(map(_component, found[place])) for place in range(len(found)))
    return Reply(vectors=vectors, usage=_usage_in(content, request, ""))


def _component(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        message = "a vector holds what is no number"
        raise Malformed(message)
    return float(value)


def _usage_in(content: Any, request: Request, text: str) -> Usage:
    said = content.get("usage")
    counts = said if isinstance(said, dict) else {}
    written = counts.get("completion_tokens")
    if written is None and not isinstance(request, Chat):
        written = 0
    return _usage(counts.get("prompt_tokens"), written, request, text)


def _usage(read: object, written: object, request: Request, text: str) -> Usage:
    """Tokens as the endpoint counts them, or about as many where it does not, or cannot be right."""
    num_bytes = len(text.encode())
    least = Usage(_bytes_of(request) // _MOST_BYTES_A_TOKEN, num_bytes // _MOST_BYTES_A_TOKEN)
    own = Usage(_read_tokens(request), num_bytes // _BYTES_A_TOKEN + 1 if isinstance(request, Chat) else 0)
    return plausible_usage(read, written, least, own)
