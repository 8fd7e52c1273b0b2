"""Reading a language model's answer: JSON, whatever stands around it, and the log-probabilities behind its numbers."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mistudio.errors import InputError
from mistudio.explain.judge import BUDGET_REACHED, AnswerToken, Judge, Reply, Request
from mistudio.explain.llm_checks import on_one_line
from mistudio.redaction import redact

_THOUGHT_START = "<think>"
_THOUGHT_END = "</think>"  # how models that think aloud end it
_LARGEST = 10**15  # whole number that a list may hold; larger ones are no answer to any question
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?|true|false")
_SHOWN_CHARACTERS = 200
_TEXT_CHARACTERS = 4000  # of an explanation, which is to be a sentence
_LABEL_CHARACTERS = 60
_LINES_COST = 16  # characters in which lines are counted, in the time in which one is parsed
_MOST_READ = 4_000_000  # characters that are looked at in one answer, each start of a list or object from there on


def find_object(text: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """The first JSON object in an answer that has all of ``keys``, whatever stands around it."""
    return next((found for found in find_objects(text) if all(key in found for key in keys)), None)


def find_objects(text: str) -> Iterator[dict[str, Any]]:
    """All JSON objects in an answer, the outer before the inner, without what was thought aloud."""
    for _start, value in _values(text, "{"):
        if isinstance(value, dict):
            yield value


def explanation_in(answer: Mapping[str, Any]) -> tuple[str, str]:
    """The explanation and the label of an object, as they can be shown and written down; empty where they are no text.

    An answer in JSON can spell out what no file can hold.
    """
    text, label = (answer.get(name) for name in ("explanation", "label"))
    return _tidy(text, _TEXT_CHARACTERS), _tidy(label, _LABEL_CHARACTERS)


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

    judge: Judge
    asked: int = 0
    useless: int = 0
    trouble: str = ""
    requests: list[Request] = field(default_factory=list)

    def count(self, requests: Iterable[Request], reply: Reply, trouble: str | None) -> None:
        """Note what came of some requests: nothing, for the reason ``trouble``, or something (None)."""
        self.asked += 1
        if self.useless == self.asked - 1:  # nothing was of use yet
            self.requests = [] if trouble is None else [*self.requests, *requests]
        if trouble is not None:
            self.useless += 1
            if not trouble.startswith(BUDGET_REACHED):
                shown = f" Its answer begins: {reply.text[:_SHOWN_CHARACTERS]!r}." if reply.text else ""
                self.trouble = f"{trouble}.{shown}"

    def refuse_if_useless(self) -> None:
        """Stop where nothing came of any request; the answers are forgotten, so that a mended model is asked again.

        Raises:
            InputError: all failed, and not because the budget was spent.
        """
        if self.useless < self.asked or not self.trouble:
            return
        self.judge.forget(self.requests)
        message = (
            f"{self.judge.model} gave no usable answer to any of {self.asked} requests. The last trouble: "
            f"{self.trouble} Check the model: it has to follow instructions and answer in JSON. The program explainer "
            "and the program score need no language model."
        )
        raise InputError(message)


def _values(text: str, opening: str) -> Iterator[tuple[int, Any]]:
    """What begins at each ``opening``, None where that is no JSON.

    Lists within lists would be read once for each of them, which takes the square of their length: so it ends after
    some millions of characters.
    """
    decoder, num_read = json.JSONDecoder(), 0
    start = text.find(opening, max(text.rfind(_THOUGHT_END), 0))
    while start >= 0 and num_read < _MOST_READ:
        value, stop = None, len(text)
        try:
            value, stop = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            stop = error.pos
            num_read += stop // _LINES_COST  # the error counts all lines before it
        except (ValueError, RecursionError):  # numbers of thousands of digits; nested too deep
            pass
        num_read += max(stop - start, 1)
        yield start, value
        start = text.find(opening, start + 1)


def _tidy(text: object, most: int) -> str:
    return on_one_line(redact(text[: 2 * most]))[:most] if isinstance(text, str) else ""


def _number_spans(text: str, count: int) -> list[tuple[int, int]] | None:
    """Where the numbers of the first list of ``count`` numbers stand."""
    for start, value in _values(text, "["):
        if isinstance(value, list) and len(value) == count and all(_is_number(item) for item in value):
            stop = text.index("]", start)
            spans = [match.span() for match in _NUMBER.finditer(text, start, stop)]
            return spans if len(spans) == count else None  # some numbers can be written so that they look like two
    return None


def _is_number(item: object) -> bool:
    if isinstance(item, bool | int):
        return abs(item) <= _LARGEST
    return isinstance(item, float) and math.isfinite(item) and "e" not in repr(item)


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
