"""Where the messages of a chat stand in the text that the tokenizer's template makes of it.

A template does not say. So it lays out the chat once more, with marks at both ends of each message: characters for
private use, which neither the messages nor a template hold. Without the marks the text has to be the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

_FIRST_MARK = 0xF0000


class Span(NamedTuple):
    """The characters of a message, without white space around them, and who says it."""

    role: str
    start: int
    end: int


def message_spans(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, str]], text: str
) -> list[Span] | None:
    """The messages of a chat in ``text``, as the template laid them out; None where that cannot be told.

    A message that the template leaves out has no span.
    """
    marks = _unused(text)
    pairs = [(next(marks), next(marks)) for _ in chat]
    marked_chat = [
        {**message, "content": _marked(message["content"], *pair)} for message, pair in zip(chat, pairs, strict=True)
    ]
    marked = str(tokenizer.apply_chat_template(marked_chat, tokenize=False))
    every = {mark for pair in pairs for mark in pair}
    if "".join(character for character in marked if character not in every) != text:
        return None
    spans: list[Span] = []
    for message, pair in zip(chat, pairs, strict=True):
        if pair[0] in marked or pair[1] in marked:
            start, end = (_plain_place(marked, mark, every) for mark in pair)
            if start is None or end is None or start > end:
                return None
            spans.append(Span(message["role"], start, end))
    return spans


def _unused(text: str) -> Iterator[str]:
    return (chr(number) for number in count(_FIRST_MARK) if chr(number) not in text)


def _marked(content: str, first: str, last: str) -> str:
    """The marks stand inside white space, which a template may take off."""
    inner = content.strip()
    start = content.index(inner)
    return f"{content[:start]}{first}{inner}{last}{content[start + len(inner) :]}"


def _plain_place(marked: str, mark: str, every: set[str]) -> int | None:
    """Where a mark stands, in characters that are no marks; None where it stands nowhere, or several times."""
    if marked.count(mark) != 1:
        return None
    return sum(character not in every for character in marked[: marked.index(mark)])
