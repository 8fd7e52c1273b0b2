"""What a model answered: texts or token ids, however the body spells them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mistudio.monitor.traffic import tensors
from mistudio.monitor.traffic.body_json import Parsed
from mistudio.monitor.traffic.config import FieldNames
from mistudio.monitor.traffic.contents import as_ids, as_text, first_of, looks_like_ids, message_text
from mistudio.monitor.traffic.unread import Problems, Unread

_IDS = ("token_ids", "output_ids")
_NO_TEXT_FIELDS = ("data", "embedding", "embeddings")  # replies to which there is nothing to read


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        index: which of all answers, from 0; those to the first prompt come first.
        content: a text or token ids.
        is_of_responses: whether it is the Responses API's, where a prompt that is a text is a message.
    """

    index: int
    content: str | tuple[int, ...]
    is_of_responses: bool = False


@dataclass
class ReplyReader:
    """Reads the JSON of replies.

    Attributes:
        names: what fields are called.
        problems: where reasons are counted.
    """

    names: FieldNames
    problems: Problems = field(default_factory=Problems)

    def read(self, parsed: Parsed) -> list[Answer]:
        """The answers in a body."""
        content = parsed.content
        if isinstance(content, dict):
            return list(self._of_object(content, parsed.rest))
        return self._numbered(content if isinstance(content, list) else [content])

    def choices(self, choices: Any) -> Iterator[Answer]:
        """OpenAI's choices."""
        for number, choice in enumerate(choices if isinstance(choices, list) else ()):
            if not isinstance(choice, dict):
                self.problems[Unread.NO_TEXT] += 1
                continue
            index = choice.get("index")
            content = self._choice(choice)
            if content is not None:
                yield Answer(index if type(index) is int and index >= 0 else number, content)

    def _of_object(self, body: dict[str, Any], rest: bytes) -> Iterator[Answer]:
        if body.get("error"):
            self.problems[Unread.ERROR_REPLY] += 1
        elif isinstance(body.get("choices"), list):
            yield from self.choices(body["choices"])
        elif "predictions" in body:
            found = body["predictions"]
            yield from self._numbered(found if isinstance(found, list) else [found])
        elif body.get("object") == "response":
            yield from self._responses(body)
        elif isinstance(body.get("outputs"), list) and all(isinstance(each, dict) for each in body["outputs"]):
            texts = self._tensors(body["outputs"], rest)
            yield from (Answer(number, text) for number, text in enumerate(texts))
        elif not any(name in body for name in _NO_TEXT_FIELDS):
            yield from self._numbered([body])

    def _choice(self, choice: dict[str, Any]) -> str | tuple[int, ...] | None:
        message, ids = choice.get("message"), choice.get("token_ids")
        if looks_like_ids(ids):
            return as_ids(ids, self.problems)
        if isinstance(message, dict):
            return message_text(message, self.problems)
        if isinstance(choice.get("text"), str):
            return as_text(choice["text"])
        self.problems[Unread.NO_TEXT] += 1
        return None

    def _numbered(self, records: list[Any]) -> list[Answer]:
        """Of records, one a prompt or several; where a record has choices, each is one."""
        found = [content for each in records for content in self._record(each)]
        return [Answer(number, content) for number, content in enumerate(found)]

    def _record(self, value: Any) -> Iterator[str | tuple[int, ...]]:
        if isinstance(value, str):
            yield as_text(value)
        elif isinstance(value, dict) and isinstance(value.get("choices"), list):
            yield from (answer.content for answer in self.choices(value["choices"]))
        elif isinstance(value, dict):
            yield from self._field(value)
        elif isinstance(value, list) and value and all(isinstance(each, str | dict) for each in value):
            for each in value:
                yield from self._record(each)
        else:
            self.problems[Unread.NO_TEXT] += 1

    def _field(self, value: dict[str, Any]) -> Iterator[str | tuple[int, ...]]:
        text, ids = first_of(value, self.names.reply), first_of(value, _IDS)
        if isinstance(text, dict) and "content" in text:
            yield message_text(text, self.problems)
        elif isinstance(text, str) or (isinstance(text, list) and all(isinstance(each, str) for each in text)):
            yield from map(as_text, [text] if isinstance(text, str) else text)
        elif looks_like_ids(ids):
            found = as_ids(ids, self.problems)
            yield from () if found is None else (found,)
        else:
            self.problems[Unread.UNKNOWN_FORM if text is None else Unread.NO_TEXT] += 1

    def _responses(self, body: dict[str, Any]) -> Iterator[Answer]:
        items = body.get("output")
        texts = [self._item(each) for each in items if isinstance(each, dict)] if isinstance(items, list) else []
        text = "".join(texts)
        if text:
            yield Answer(0, text, is_of_responses=True)

    def _item(self, item: dict[str, Any]) -> str:
        kind = item.get("type", "message")
        self.problems[Unread.TOOL_CALL] += isinstance(kind, str) and kind.endswith("_call")
        return message_text(item, self.problems) if kind == "message" else ""

    def _tensors(self, outputs: list[Any], rest: bytes) -> list[str]:
        found = tensors.with_data(outputs, rest)
        by_name = {each["name"]: each for each in found if tensors.is_of_texts(each)}
        named = first_of(by_name, self.names.reply)
        if named is None and len(by_name) == 1:
            (named,) = by_name.values()
        if named is None:
            self.problems[Unread.UNKNOWN_FORM if by_name else Unread.NO_TEXT] += 1
            return []
        return tensors.texts_of(named, self.problems)
