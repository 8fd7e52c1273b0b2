"""Where the messages of a chat stand in the text that the tokenizer's template makes of it.

A template does not say. So it lays out the chat once more, with marks at both ends of each message: characters for
private use, which neither the messages nor a template hold. Without the marks the text has to be the same.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

LayOut = Callable[[list[dict[str, str]]], str]

_FIRST_MARK = 0xF0000


class Span(NamedTuple):
    """The characters of a message, without white space around them, and who says it."""

    role: str
    start: int
    end: int


def message_spans(lay_out: LayOut, chat: Sequence[Mapping[str, str]], text: str) -> list[Span] | None:
    """The messages of a chat in ``text``, as the template laid them out; None where that cannot be told.

    A message that the template leaves out has no span.

    Args:
        lay_out: what the template makes of a chat.
        chat: messages, each with role and content.
        text: what it has made of this one.
    """
    marks = _unused(text)
    pairs = [(next(marks), next(marks)) for _ in chat]
    marked_chat = [
        {**message, "content": _marked(message["content"], *pair)} for message, pair in zip(chat, pairs, strict=True)
    ]
    plain, places = _without(lay_out(marked_chat), {mark for pair in pairs for mark in pair})
    if plain != text:
        return None
    spans: list[Span] = []
    for message, pair in zip(chat, pairs, strict=True):
        starts, ends = (places[mark] for mark in pair)
        if len(starts) != len(ends) or len(starts) > 1 or starts > ends:
            return None
        spans += [Span(message["role"], starts[0], ends[0])] if starts else []
    return spans


def _unused(text: str) -> Iterator[str]:
    used = set(text)
    return (chr(number) for number in count(_FIRST_MARK) if chr(number) not in used)


def _marked(content: str, first: str, last: str) -> str:
    """The marks stand inside white space, which a template may take off."""
    inner = content.strip()
    start = content.index(inner)
    return f"{content[:start]}{first}{inner}{last}{content[start + len(inner) :]}"


def _without(marked: str, marks: set[str]) -> tuple[str, defaultdict[str, list[int]]]:
    """The text without marks, and where in it each stood."""
    pattern = re.compile(f"[{''.join(marks)}]") if marks else re.compile("(?!)")
    places: defaultdict[str, list[int]] = defaultdict(list)
    for before, found in enumerate(pattern.finditer(marked)):
        places[found[0]].append(found.start() - before)
    return pattern.sub("", marked), places
