"""Replies that were streamed: server-sent events, which arrive whole, put together to what the client read.

KServe's agent collects all that was written and sends it when the stream has ended; where the client leaves before, it
sends nothing. Other loggers send what they have: so the end may be missing, also within an event. What came is read,
and that it broke off is counted.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.monitor.traffic.config import FieldNames
from mistudio.monitor.traffic.contents import as_text, first_of
from mistudio.monitor.traffic.reply_bodies import Answer
from mistudio.monitor.traffic.unread import Problems, Unread

_LINE_END = re.compile("\r\n|\n|\r")  # others, such as U+2028, are text
_DONE = "[DONE]"
_MAX_INDEX = 10_000
_ENDS_OF_RESPONSES = frozenset(("response.completed", "response.incomplete", "response.failed"))


@dataclass
class _Open:
    """An answer that goes on."""

    parts: list[str] = field(default_factory=list)
    tool_calls: set[int] = field(default_factory=set)
    is_finished: bool = False


class StreamReader:
    """Reads one stream.

    Args:
        names: what fields are called.
        problems: where reasons are counted.
    """

    def __init__(self, names: FieldNames, problems: Problems) -> None:
        self._names, self._problems = names, problems
        self._answers: dict[int, _Open] = {}
        self._is_done = self._has_failed = self._is_of_responses = False

    def read(self, body: bytes) -> list[Answer]:
        """The answers in a stream."""
        for data in _events(body.decode("utf-8-sig", "replace")):
            if data.strip() == _DONE:
                self._is_done = True
            elif data.strip():
                self._take(data)
        answers = self._answers
        is_whole = self._is_done or (bool(answers) and all(each.is_finished for each in answers.values()))
        if not is_whole and not self._has_failed:
            self._problems[Unread.CUT_STREAM] += 1
        self._problems[Unread.TOOL_CALL] += sum(len(each.tool_calls) for each in answers.values())
        texts = ((index, as_text("".join(answers[index].parts))) for index in sorted(answers))
        return [Answer(index, text, self._is_of_responses) for index, text in texts]

    def _take(self, data: str) -> None:
        try:
            chunk = parse_json(data, finite=False)
        except RefusedJSON:
            chunk = None
        if not isinstance(chunk, dict):
            self._problems[Unread.BAD_CHUNK] += 1
        elif chunk.get("error"):
            self._has_failed = True
            self._problems[Unread.ERROR_REPLY] += 1
        elif isinstance(chunk.get("choices"), list):
            for choice in chunk["choices"]:
                self._choice(choice)
        elif isinstance(chunk.get("type"), str) and chunk["type"].startswith("response."):
            self._of_responses(chunk["type"], chunk)
        else:
            self._field(chunk)

    def _choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            self._problems[Unread.BAD_CHUNK] += 1
            return
        open_ = self._at(choice.get("index"))
        delta = choice.get("delta")
        text = first_of(delta, ("content", "refusal")) if isinstance(delta, dict) else choice.get("text")
        if isinstance(text, str):
            open_.parts.append(text)
        calls = delta.get("tool_calls") if isinstance(delta, dict) else None
        open_.tool_calls |= {_index(call) for call in calls or ()} if isinstance(calls, list) else set()
        open_.is_finished = open_.is_finished or choice.get("finish_reason") is not None

    def _of_responses(self, kind: str, chunk: dict[str, Any]) -> None:
        self._is_of_responses = True
        open_ = self._at(0)
        if kind in ("response.output_text.delta", "response.refusal.delta") and isinstance(chunk.get("delta"), str):
            open_.parts.append(chunk["delta"])
        elif kind == "response.output_item.added":
            item = chunk.get("item")
            if isinstance(item, dict) and str(item.get("type", "")).endswith("_call"):
                open_.tool_calls.add(len(open_.tool_calls))
        if kind in _ENDS_OF_RESPONSES:
            open_.is_finished = True
            self._problems[Unread.ERROR_REPLY] += kind == "response.failed"

    def _field(self, chunk: dict[str, Any]) -> None:
        """Of servers of text generation: pieces of one answer, in a field that is known, or in that of a token."""
        open_ = self._at(chunk.get("index") if "token" not in chunk else 0)
        token = chunk.get("token")
        text = token.get("text") if isinstance(token, dict) else first_of(chunk, self._names.reply)
        if isinstance(text, str):
            is_special = isinstance(token, dict) and token.get("special") is True
            open_.parts += [] if is_special else [text]
            # Such streams have no word for their end, but that of tokens repeats the whole text.
            open_.is_finished = not isinstance(token, dict) or chunk.get("generated_text") is not None
        elif "usage" not in chunk:
            self._problems[Unread.UNKNOWN_FORM] += 1

    def _at(self, index: Any) -> _Open:
        known = index if type(index) is int and 0 <= index < _MAX_INDEX else 0
        return self._answers.setdefault(known, _Open())


def _index(call: Any) -> int:
    index = call.get("index", 0) if isinstance(call, dict) else 0
    return index if type(index) is int else 0


def _events(text: str) -> Iterator[str]:
    """The data of each event, its lines put together."""
    lines: list[str] = []
    for line in _LINE_END.split(text):
        if not line and lines:
            yield "\n".join(lines)
            lines = []
        elif line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
    if lines:
        yield "\n".join(lines)
