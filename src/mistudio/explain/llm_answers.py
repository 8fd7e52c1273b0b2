"""Reading a language model's answer: JSON, whatever stands around it, and the log-probabilities behind its numbers."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mistudio.errors import InputError
from mistudio.explain.judge import BUDGET_REACHED, AnswerToken, Reply

_THOUGHT_START = "<think>"
_THOUGHT_END = "</think>"  # how models that think aloud end it
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?|true|false")
_SHOWN_CHARACTERS = 200


def find_object(text: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """The first JSON object in an answer that has all of ``keys``, whatever stands around it."""
    return next((found for found in find_objects(text) if all(key in found for key in keys)), None)


def find_objects(text: str) -> Iterator[dict[str, Any]]:
    """All JSON objects in an answer, the outer before the inner, without what was thought aloud."""
    for _start, value in _values(text, "{"):
        if isinstance(value, dict):
            yield value


def is_complete(text: str) -> bool:
    """Whether an answer holds a whole JSON object or list, so that nothing needs to follow."""
    if _THOUGHT_START in text and _THOUGHT_END not in text:
        return False
    return any(isinstance(value, dict | list) for opening in "{[" for _, value in _values(text, opening))


def find_numbers(reply: Reply, count: int) -> list[float] | None:
    """The first JSON list of ``count`` numbers in an answer; true and false count as 1 and 0."""
    found = _number_spans(reply.text, count)
    return [_as_number(reply.text[start:stop]) for start, stop in found] if found else None


def expected_numbers(reply: Reply, count: int, low: int, high: int) -> list[float] | None:
    """The means of the judge's distributions over the numbers ``low`` to ``high`` at each place of such a list.

    A place where the number takes more than one token, or where nothing else was considered, has the number itself.

    Returns:
        None where there is no such list, or the endpoint gives no log-probabilities.
    """
    spans = _number_spans(reply.text, count)
    if not spans or not reply.tokens or "".join(token.text for token in reply.tokens) != reply.text:
        return None
    starts = [0]
    for token in reply.tokens:
        starts.append(starts[-1] + len(token.text))
    means, place = [], 0
    for start, stop in spans:
        while starts[place + 1] <= start:
            place += 1
        plain = _as_number(reply.text[start:stop])
        is_whole = stop <= starts[place + 1]
        means.append(_mean_number(reply.tokens[place], low, high, plain) if is_whole else plain)
    return means


@dataclass
class Tally:
    """How many requests came to something; where none did, there is nothing to go on with."""

    model: str
    asked: int = 0
    useless: int = 0
    trouble: str = ""

    def count(self, reply: Reply, trouble: str | None) -> None:
        """Note what came of a request: nothing, for the reason ``trouble``, or something (None)."""
        self.asked += 1
        if trouble is not None:
            self.useless += 1
            if not trouble.startswith(BUDGET_REACHED):
                shown = f" Its answer begins: {reply.text[:_SHOWN_CHARACTERS]!r}." if reply.text else ""
                self.trouble = f"{trouble}.{shown}"

    def refuse_if_useless(self) -> None:
        """Stop where nothing came of any request.

        Raises:
            InputError: all failed, and not because the budget was spent.
        """
        if self.useless < self.asked or not self.trouble:
            return
        message = (
            f"{self.model} gave no usable answer to any of {self.asked} requests. The last trouble: {self.trouble} "
            "Check the model: it has to follow instructions and answer in JSON. The program explainer and the program "
            "score need no language model."
        )
        raise InputError(message)


def _values(text: str, opening: str) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    start = text.find(opening, max(text.rfind(_THOUGHT_END), 0))
    while start >= 0:
        value = None
        with suppress(json.JSONDecodeError, RecursionError):
            value, _ = decoder.raw_decode(text, start)
        yield start, value
        start = text.find(opening, start + 1)


def _number_spans(text: str, count: int) -> list[tuple[int, int]] | None:
    """Where the numbers of the first list of ``count`` numbers stand."""
    for start, value in _values(text, "["):
        if isinstance(value, list) and len(value) == count and all(_is_number(item) for item in value):
            stop = text.index("]", start)
            return [match.span() for match in _NUMBER.finditer(text, start, stop)]
    return None


def _is_number(item: object) -> bool:
    return isinstance(item, bool | int) or (isinstance(item, float) and math.isfinite(item) and "e" not in repr(item))


def _as_number(text: str) -> float:
    return {"true": 1.0, "false": 0.0}[text] if text in ("true", "false") else float(text)


def _mean_number(token: AnswerToken, low: int, high: int, plain: float) -> float:
    weights = [
        (_as_number(match[0]), math.exp(logprob))
        for text, logprob in token.logprobs
        if (match := _NUMBER.search(text)) and low <= _as_number(match[0]) <= high
    ]
    total = sum(weight for _, weight in weights)
    return sum(value * weight for value, weight in weights) / total if total > 0 else plain
