"""What an answer of a language model must be before anything is made of it, or it is remembered.

An answer may come from anywhere: an endpoint that is broken or means ill, a model whose numbers overflowed, a database
that was edited. One that was remembered unchecked would end every later run that finds it.
"""

import math
import unicodedata
from typing import NoReturn

from mistudio.explain.judge import AnswerToken, Embedding, Likelihood, Reply, Request, Usage

MOST_CHARACTERS = 1_000_000  # of one answer
MOST_TOKENS = 1_000_000  # that one answer can have taken, read and written: more than any model's context
LEAST_LOGPROB = -10_000.0  # what servers write for "impossible" is less, or infinite
_ROUNDING = 1e-2  # by which the log-probability of what is certain may pass zero
_LARGEST_COMPONENT = 1e18  # of a vector; the square of its length is finite
_REPLACEMENT = "\ufffd"


class Malformed(ValueError):
    """An answer that is not what was asked for; the next one may be."""


def check_reply(request: Request, reply: Reply) -> Reply:
    """The reply, if it answers the request and can be written down.

    Raises:
        Malformed: something in it is missing, of another type, or out of range.
    """
    _check_text("the answer", reply.text)
    if type(reply.truncated) is not bool or reply.failure is not None:
        _refuse("what was remembered is no answer")
    if not all(_is_count(count) for count in reply.usage):
        _refuse("the numbers of its tokens are none")
    if reply.tokens is not None:
        for token in reply.tokens:
            _check_token(token)
    if isinstance(request, Likelihood):
        _check_loss(reply.loss)
    elif isinstance(request, Embedding):
        _check_vectors(reply.vectors, len(request.texts))
    return reply


def well_formed(text: str) -> str:
    """The text with half surrogates, which no file can hold, replaced one by one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_REPLACEMENT if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


def on_one_line(text: str) -> str:
    """The text without control characters, line ends and half surrogates."""
    spaced = (" " if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character for character in text)
    return " ".join(well_formed("".join(spaced)).split())


def bounded_logprob(value: object) -> float:
    """A log-probability, at least ``LEAST_LOGPROB`` and at most 0.

    Raises:
        Malformed: it is no number, or that of a probability above 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
        _refuse("a log-probability is not one")
    return float(min(max(value, LEAST_LOGPROB), 0.0))


def plausible_usage(prompt_tokens: object, completion_tokens: object, least: Usage, own: Usage) -> Usage:
    """The tokens that an endpoint says it took, each replaced by our own count where it cannot be right.

    Args:
        prompt_tokens: tokens read, as the endpoint says.
        completion_tokens: tokens written, as the endpoint says.
        least: fewer than these take no text of this length, whatever the tokenizer.
        own: about how many there are.
    """
    said = (prompt_tokens, completion_tokens)
    return Usage(*(_plausible(*three) for three in zip(said, least, own, strict=True)))


def _plausible(said: object, least: int, own: int) -> int:
    return said if isinstance(said, int) and _is_count(said) and said >= least else own


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        _refuse(f"{what} is no text")
    elif len(text) > MOST_CHARACTERS:
        _refuse(f"{what} has {len(text):,} characters; {MOST_CHARACTERS:,} are allowed")
    elif well_formed(text) != text:
        _refuse(f"{what} holds half surrogates")


def _check_token(token: AnswerToken) -> None:
    _check_text("a token", token.text)
    for text, logprob in token.logprobs:
        _check_text("a token", text)
        if bounded_logprob(logprob) != logprob:
            _refuse("a log-probability is out of range")


def _check_loss(loss: object) -> None:
    if not isinstance(loss, float) or not 0 <= loss <= -LEAST_LOGPROB:
        _refuse("there is no loss, or one that cannot be")


def _check_vectors(vectors: tuple[tuple[float, ...], ...] | None, count: int) -> None:
    if vectors is None or len(vectors) != count:
        _refuse(f"{len(vectors or ())} vectors for {count} texts")
    elif len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        _refuse("vectors of different lengths, or of none")
    elif not all(_is_component(value) for vector in vectors for value in vector):
        _refuse("a vector holds what is no finite number")


def _is_component(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and abs(value) <= _LARGEST_COMPONENT


def _refuse(problem: str) -> NoReturn:
    raise Malformed(problem)
