"""What a request asked a model: prompts, however the body spells them.

Read are OpenAI's completions, chats, embeddings and responses; V1 (``instances``) and V2 (``inputs`` with tensors) of
KServe; and objects with a field that is known to hold a text, a chat or token ids, such as those of text-generation
servers and miStudio's own. Which of these a body is, its fields tell: a logger's event does not carry the path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.instrument.messages import Message
from mistudio.monitor.traffic import tensors
from mistudio.monitor.traffic.body_json import Parsed
from mistudio.monitor.traffic.config import FieldNames
from mistudio.monitor.traffic.contents import Content, as_chat, as_ids, as_text, first_of, looks_like_ids
from mistudio.monitor.traffic.unread import Problems, Unread

_MAX_ANSWERS = 10_000
_MAX_NAME_CHARACTERS = 256
_ENCODED_REQUEST = "request"  # a tensor of requests as JSON, as miStudio's own models take them
# Fields of the Responses API that embeddings do not have; both call their text "input".
_OF_RESPONSES = frozenset(
    (
        "instructions",
        "max_output_tokens",
        "tools",
        "reasoning",
        "previous_response_id",
        "stream",
        "temperature",
        "store",
    )
)


@dataclass(frozen=True)
class Asked:
    """What is known of a request.

    Attributes:
        prompts: in their order.
        answers: to each prompt, where the request says; None: the reply shows.
        may_echo: whether an answer may begin with its prompt.
        tenant: who asks, as a field of the body says.
        model: that the body names.
    """

    prompts: tuple[Content, ...] = ()
    answers: int | None = None
    may_echo: bool = True
    tenant: str = ""
    model: str = ""


@dataclass
class RequestReader:
    """Reads the JSON of requests.

    Attributes:
        names: what fields are called.
        problems: where reasons are counted.
    """

    names: FieldNames
    problems: Problems = field(default_factory=Problems)

    def read(self, parsed: Parsed) -> Asked:
        """What a body asks."""
        content = parsed.content
        if not isinstance(content, dict):
            return Asked(tuple(self._record(content)))
        prompts, answers, may_echo = self._asked(content, parsed.rest)
        tenant, model = _name(first_of(content, self.names.tenant)), _name(content.get("model"))
        return Asked(tuple(prompts), answers, may_echo, tenant, model)

    def _asked(self, body: dict[str, Any], rest: bytes) -> tuple[list[Content], int | None, bool]:
        """Prompts, answers to each, and whether they may be repeated in them."""
        if isinstance(body.get("instances"), list):
            return [prompt for each in body["instances"] for prompt in self._record(each)], None, True
        if _is_tensors(body.get("inputs")):
            return self._tensors(body, rest), None, True
        if "model" not in body and _number(body.get("n")) is None:
            return self._record(body), None, True
        # From here on it is OpenAI's API, which says how many answers there are.
        answers, echo = _number(body.get("n")) or 1, body.get("echo") is True
        if isinstance(body.get("messages"), list):
            chat = as_chat(body["messages"], self.problems)
            return [chat] if chat else [], answers, False
        if "input" in body:
            return self._input(body), answers, False
        if "prompt" in body:
            return self._several(body["prompt"]), answers, echo
        return self._record(body), None, True

    def _input(self, body: dict[str, Any]) -> list[Content]:
        """Of embeddings, or of the Responses API."""
        given, instructions = body["input"], body.get("instructions")
        is_chat = isinstance(given, list) and any(isinstance(each, dict) for each in given)
        if not is_chat and not (isinstance(given, str) and _OF_RESPONSES & body.keys()):
            return self._several(given)
        chat = as_chat(given, self.problems) if is_chat else (Message(role="user", content=as_text(given)),)
        first = (Message(role="system", content=as_text(instructions)),) if isinstance(instructions, str) else ()
        return [(*first, *chat)] if chat else []

    def _several(self, value: Any) -> list[Content]:
        """A text, token ids, or a list of either."""
        if isinstance(value, list) and not looks_like_ids(value):
            return [prompt for each in value for prompt in self._one(each)]
        return self._one(value)

    def _one(self, value: Any) -> list[Content]:
        if isinstance(value, str):
            return [as_text(value)]
        if isinstance(value, list):
            ids = as_ids(value, self.problems)
            return [] if ids is None else [ids]
        self.problems[Unread.NO_TEXT] += 1
        return []

    def _record(self, value: Any) -> list[Content]:
        """An instance of V1, or a body of no known protocol."""
        if isinstance(value, str):
            return [as_text(value)]
        if looks_like_ids(value):
            return self._one(value)
        if not isinstance(value, dict):
            self.problems[Unread.NO_TEXT] += 1
            return []
        messages, ids = first_of(value, self.names.messages), first_of(value, self.names.ids)
        if isinstance(messages, list):
            chat = as_chat(messages, self.problems)
            return [chat] if chat else []
        if isinstance(ids, list):
            return self._several(ids)
        text = first_of(value, self.names.text)
        if text is None:
            self.problems[Unread.UNKNOWN_FORM] += 1
            return []
        return self._several(text)

    def _tensors(self, body: dict[str, Any], rest: bytes) -> list[Content]:
        found = tensors.with_data(body["inputs"], rest)
        by_name = {each["name"]: each for each in found}
        encoded = by_name.get(_ENCODED_REQUEST)
        ids, texts = first_of(by_name, self.names.ids), first_of(by_name, self.names.text)
        if encoded is not None and tensors.is_of_texts(encoded):
            return [prompt for each in tensors.texts_of(encoded, self.problems) for prompt in self._encoded(each)]
        if texts is not None and tensors.is_of_texts(texts):
            return list(tensors.texts_of(texts, self.problems))
        if ids is not None and tensors.is_of_integers(ids):
            return list(tensors.rows_of(ids, found, self.problems))
        only = [each for each in found if tensors.is_of_texts(each)]
        if len(only) == 1:
            return list(tensors.texts_of(only[0], self.problems))
        self.problems[Unread.UNKNOWN_FORM if only else Unread.NO_TEXT] += 1
        return []

    def _encoded(self, text: str) -> list[Content]:
        try:
            return self._record(parse_json(text, finite=False))
        except RefusedJSON:
            return [text]


def _is_tensors(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= _MAX_ANSWERS else None


def _name(value: Any) -> str:
    return as_text(value[:_MAX_NAME_CHARACTERS]) if isinstance(value, str) else ""
