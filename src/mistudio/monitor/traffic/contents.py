"""Values of JSON as texts, token ids and chats: what requests and replies of all protocols are made of."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from mistudio.instrument.messages import Message
from mistudio.monitor.traffic.unread import Problems, Unread
from mistudio.plain_text import has_surrogates, without_surrogates

Content: TypeAlias = str | tuple[Message, ...] | tuple[int, ...]

_MAX_ROLE_CHARACTERS = 64
_LARGEST_ID = 1 << 31
_TEXT_PARTS = frozenset(("text", "input_text", "output_text", "refusal"))


def first_of(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The value of the first of these names that a record has and that is not null."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def as_text(value: str) -> str:
    """A text that can be written as UTF-8."""
    return without_surrogates(value) if has_surrogates(value) else value


def as_ids(value: Any, problems: Problems) -> tuple[int, ...] | None:
    """Token ids; None where they are none, with that counted."""
    is_ids = isinstance(value, list) and all(type(each) is int and 0 <= each < _LARGEST_ID for each in value)
    if not is_ids or not value:
        problems[Unread.BAD_IDS if value else Unread.EMPTY] += 1
        return None
    return tuple(value)


def looks_like_ids(value: Any) -> bool:
    """Whether a value is a list that begins with a whole number."""
    return isinstance(value, list) and bool(value) and type(value[0]) is int


def as_chat(value: Any, problems: Problems) -> tuple[Message, ...]:
    """The messages of a chat that can be read; those that cannot are counted."""
    if not isinstance(value, list):
        problems[Unread.BAD_MESSAGE] += 1
        return ()
    found = tuple(message for each in value if (message := _message(each, problems)) is not None)
    if not value:
        problems[Unread.EMPTY] += 1
    return found


def message_text(message: Mapping[str, Any], problems: Problems) -> str:
    """What a message says: a text, or parts of one; what is no text is counted."""
    calls = message.get("tool_calls")
    problems[Unread.TOOL_CALL] += (
        len(calls) if isinstance(calls, list) else int(message.get("function_call") is not None)
    )
    content = message.get("content")
    if content is None:
        content = message.get("refusal")
    if isinstance(content, str):
        return as_text(content)
    if isinstance(content, list):
        return "".join(_part_text(part, problems) for part in content)
    if content is not None:
        problems[Unread.BAD_MESSAGE] += 1
    return ""


def _message(value: Any, problems: Problems) -> Message | None:
    if not isinstance(value, dict):
        problems[Unread.BAD_MESSAGE] += 1
        return None
    role = value.get("role")
    if role is None and value.get("type") in ("function_call", "custom_tool_call"):
        problems[Unread.TOOL_CALL] += 1
        return None
    if role is None and isinstance(value.get("output"), str):  # what a tool answered, in the Responses API
        return Message(role="tool", content=as_text(value["output"]))
    if not isinstance(role, str) or not 0 < len(role) <= _MAX_ROLE_CHARACTERS or has_surrogates(role):
        problems[Unread.BAD_MESSAGE] += 1
        return None
    # One without text stays: templates may ask for roles in turns.
    return Message(role=role, content=message_text(value, problems))


def _part_text(part: Any, problems: Problems) -> str:
    if isinstance(part, str):
        return as_text(part)
    kind = part.get("type", "text") if isinstance(part, dict) else None
    text = first_of(part, ("text", "refusal")) if isinstance(part, dict) else None
    if kind in _TEXT_PARTS and isinstance(text, str):
        return as_text(text)
    problems[Unread.NOT_TEXT_PART] += 1
    return ""
