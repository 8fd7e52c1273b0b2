"""What OpenAI's API takes, as far as it means something here.

A field whose omission would change the answer is refused, by name; one that changes nothing, such as ``user``, is read
and left. Numbers are numbers: a text that looks like one is refused, as OpenAI does.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema

from mistudio.plain_text import shortened
from mistudio.settings import MOST_SEED
from mistudio.steer.requests import MAX_TOP_LOGPROBS, Steering

MOST_TOKEN = (1 << 31) - 1
MAX_PROMPTS = 128
COMPLETION_TOKENS = 16  # what OpenAI's completions have where nothing is said


def _says_nothing(value: Any, info: ValidationInfo) -> Any:
    if value is None or value is False or value in (0, "", [], {}):
        return value
    message = f"{info.field_name} is not supported here: leave it out"
    raise ValueError(message)


def _one_of(*known: Any) -> AfterValidator:
    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None or value in known:
            return value
        message = f"{info.field_name} {shortened(value)} is not supported here: leave it out"
        raise ValueError(message)

    return AfterValidator(check)


def _seed(value: Any) -> Any:
    """OpenAI's seeds have 64 bits, and may be negative; the same one stays the same."""
    is_far = isinstance(value, int) and not isinstance(value, bool) and not 0 <= value <= MOST_SEED
    return value % (MOST_SEED + 1) if is_far and -(1 << 63) <= value < 1 << 63 else value


def _texts(value: Any, info: ValidationInfo) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        message = f"{info.field_name} takes a text or a list of texts, not {shortened(value)}"
        raise ValueError(message)
    return tuple(texts)


def _prompts(value: Any) -> "tuple[str | tuple[int, ...], ...]":
    """One prompt or several, each a text or token ids."""
    several = value if isinstance(value, list) and value and isinstance(value[0], str | list) else [value]
    if len(several) > MAX_PROMPTS:
        message = f"prompt has {len(several):,} prompts: give {MAX_PROMPTS} at most"
        raise ValueError(message)
    return tuple(_prompt(each) for each in several)


def _prompt(value: Any) -> "str | tuple[int, ...]":
    if isinstance(value, str):
        return value
    is_ids = isinstance(value, list) and all(type(each) is int and 0 <= each <= MOST_TOKEN for each in value)
    if not is_ids or not value:
        message = f"prompt takes a text, token ids, or a list of either, not {shortened(value)}"
        raise ValueError(message)
    return tuple(value)


def _content(value: Any) -> str:
    """The text of a message, which OpenAI's API also takes in parts."""
    if isinstance(value, str):
        return value
    is_parts = isinstance(value, list) and all(
        isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text" for part in value
    )
    if not is_parts or not all(isinstance(part["text"], str) for part in value):
        message = f"content takes a text, or parts of type text, not {shortened(value)}"
        raise ValueError(message)
    return "".join(part["text"] for part in value)


_TEXT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MOST_TOKEN}, "minItems": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        _IDS,
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PROMPTS},
        {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MAX_PROMPTS},
    ]
}
_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]}

Unsupported = Annotated[Any, AfterValidator(_says_nothing)]
Ignored = Annotated[Any, Field(description="changes nothing here")]
Seed = Annotated[int, BeforeValidator(_seed), Field(ge=0, le=MOST_SEED), WithJsonSchema({"type": "integer"})]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), WithJsonSchema(_TEXT_SCHEMA)]
Prompts = Annotated[
    tuple[str | tuple[int, ...], ...], BeforeValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA), Field(min_length=1)
]
Content = Annotated[str, BeforeValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Model):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: Unsupported = None


class _Request(_Model):
    """What completions and chats have in common."""

    model: str = Field(description="name of the model, as /openai/v1/models has it")
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, description="beyond OpenAI's API")
    min_p: float | None = Field(None, description="beyond OpenAI's API")
    ignore_eos: bool | None = Field(None, description="beyond OpenAI's API")
    steering: SkipValidation[Steering | None] = Field(None, description="beyond OpenAI's API: edits of activations")
    n: int | None = None
    max_tokens: int | None = None
    stop: Texts | None = None
    seed: Seed | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Unsupported = None
    presence_penalty: Unsupported = None
    user: Ignored = None

    @model_validator(mode="after")
    def _options_are_of_a_stream(self) -> "_Request":
        if self.stream_options is not None and not self.stream:
            message = "stream_options is for streams: say stream too, or leave it out"
            raise ValueError(message)
        return self

    def common(self) -> dict[str, Any]:
        """Fields of the engine's request that are called the same."""
        names = ("temperature", "top_p", "top_k", "min_p", "ignore_eos", "steering", "n", "stop", "seed", "logit_bias")
        return {name: getattr(self, name) for name in names}

    def renamed(self) -> dict[str, str]:
        """What the client knows fields of the engine's request by, where that differs."""
        return {}

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(_Request):
    """The body of /openai/v1/completions."""

    prompt: Prompts = Field(description="one prompt or several, each a text or token ids")
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    best_of: int | None = None
    echo: Unsupported = None
    suffix: Unsupported = None

    @model_validator(mode="after")
    def _best_are_all(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != (self.n or 1):
            message = f"best_of {shortened(self.best_of)} is not supported here: leave it out"
            raise ValueError(message)
        return self

    def requests(self) -> list[dict[str, Any]]:
        """Fields of the engine's requests, one a prompt."""
        most = COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        fields = self.common() | {"max_tokens": most, "logprobs": self.logprobs}
        return [fields | {"prompt": prompt} for prompt in self.prompt]


class ChatMessage(_Model):
    """One message of a chat; what OpenAI's answers have beside it may be sent back where it says nothing."""

    role: str = Field(min_length=1, max_length=64)
    content: Content
    name: Unsupported = None
    refusal: Unsupported = None
    annotations: Unsupported = None
    audio: Unsupported = None
    function_call: Unsupported = None
    tool_calls: Unsupported = None
    tool_call_id: Unsupported = None


class ChatRequest(_Request):
    """The body of /openai/v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: Annotated[Any, _one_of({"type": "text"})] = None
    modalities: Annotated[Any, _one_of(["text"])] = None
    verbosity: Annotated[Any, _one_of("medium")] = None
    service_tier: Annotated[Any, _one_of("auto", "default")] = None
    tool_choice: Annotated[Any, _one_of("auto", "none")] = None
    function_call: Annotated[Any, _one_of("auto", "none")] = None
    reasoning_effort: Annotated[Any, _one_of("none")] = None
    tools: Unsupported = None
    functions: Unsupported = None
    audio: Unsupported = None
    prediction: Unsupported = None
    web_search_options: Unsupported = None
    store: Unsupported = None
    parallel_tool_calls: Ignored = None
    metadata: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None

    @model_validator(mode="after")
    def _fields_agree(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            message = "top_logprobs is for logprobs: say logprobs true too, or leave it out"
            raise ValueError(message)
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            message = "max_completion_tokens and max_tokens differ: give one of them"
            raise ValueError(message)
        return self

    def requests(self) -> list[dict[str, Any]]:
        """Fields of the engine's request."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        messages = [{"role": each.role, "content": each.content} for each in self.messages]
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return [self.common() | {"messages": messages, "max_tokens": most, "logprobs": logprobs}]

    def renamed(self) -> dict[str, str]:
        """What the client knows fields of the engine's request by, where that differs."""
        return {} if self.max_completion_tokens is None else {"max_tokens": "max_completion_tokens"}
