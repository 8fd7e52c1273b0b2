"""How the language model that explains and judges is reached or loaded; what recipes hold of it, without loading it."""

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mistudio.addresses import Reach, check_literal
from mistudio.errors import ConfigError
from mistudio.redaction import redact
from mistudio.subject import SubjectConfig, device_name, resolve_dtype, resolve_source

KEY_VARIABLES = ("MISTUDIO_LLM_API_KEY", "OPENAI_API_KEY")
_MARKS = "@?#"  # in an address: behind or before them stand passwords and keys
_HOST = re.compile(r"[\w.:%-]+")
_SHOWN_CHARACTERS = 100


def _is_address(base_url: str) -> bool:
    """Whether something could be there: http or https, a host that names can have, and a port that there is."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        return False
    is_one_word = base_url.isprintable() and " " not in base_url
    return is_one_word and parts.scheme in ("http", "https") and bool(_HOST.fullmatch(host)) and port != 0


class EndpointConfig(BaseModel):
    """Where the language model is, and how to use it. Its API key comes from the environment alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    base_url: str = Field(description="address of the API, as a rule up to and with /v1")
    model: str = Field(min_length=1, description="name of the model at the endpoint")
    embedding_model: str = Field(default="", description="name of the model that embeds texts; default: the same")
    concurrency: int = Field(default=8, ge=1, description="most requests at the same time")
    timeout_s: float = Field(default=120, gt=0, description="longest wait for one answer, in seconds")
    retries: int = Field(default=6, ge=0, description="how often a request is sent again after it failed in passing")
    backoff_s: float = Field(
        default=0.5, ge=0, description="wait before the first retry, in seconds; doubles each time"
    )
    max_wait_s: float = Field(default=120, gt=0, description="longest wait before a retry, in seconds")
    give_up_after: int = Field(
        default=10, ge=1, description="requests without an answer, one after another, that end a run"
    )
    max_output_tokens: int = Field(
        default=1024, ge=1, description="longest answer, in tokens, where what asks does not need a shorter one"
    )
    thinking_tokens: int = Field(
        default=0, ge=0, description="tokens that a model that thinks aloud may take before its answer"
    )
    temperature: float | None = Field(default=0.0, ge=0, description="None leaves it out, for models that refuse it")
    seed: int = Field(default=0, description="passed on to the endpoint")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="how the endpoint wants to be told the length of an answer"
    )
    logprobs: bool = Field(default=True, description="ask for log-probabilities; False where the endpoint refuses")
    token_budget: int | None = Field(
        default=None, ge=1, description="most tokens, read and written, that a run may use; remembered answers count"
    )
    usd_per_million_in: float = Field(default=0.0, ge=0, description="price of a million tokens read, in US dollars")
    usd_per_million_out: float = Field(
        default=0.0, ge=0, description="price of a million tokens written, in US dollars"
    )

    @field_validator("base_url")
    @classmethod
    def _is_plain_url(cls, base_url: str) -> str:
        if any(mark in base_url for mark in _MARKS):
            message = f"base_url must hold no secret: put the key into the environment variable {KEY_VARIABLES[0]}"
            raise ValueError(message)
        if not _is_address(base_url):
            message = f"base_url is {redact(base_url)[:_SHOWN_CHARACTERS]!r}; write an address such as http://localhost:8000/v1"
            raise ValueError(message)
        try:
            check_literal(urlsplit(base_url).hostname or "", Reach.TRUSTED)
        except ConfigError as error:
            message = f"base_url: {error}"
            raise ValueError(message) from error
        return base_url

    @property
    def embeds_with(self) -> str:
        """The model that embeds texts."""
        return self.embedding_model or self.model

    def sampling(self) -> dict[str, Any]:
        """What is sent with every request to write, and changes its answer."""
        return {"temperature": self.temperature, "seed": self.seed}

    def settings(self) -> dict[str, Any]:
        """What of this changes what is asked and answered: no address, time-out or price."""
        names = ("model", "max_output_tokens", "thinking_tokens", "logprobs", "token_budget")
        asked = {name: getattr(self, name) for name in names}
        return {**asked, "embedding_model": self.embeds_with, **self.sampling()}


class LocalModelConfig(BaseModel):
    """A language model to be loaded on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(
        min_length=1, description="folder in Hugging Face format, a GGUF file, or an id on the model hub"
    )
    subject: SubjectConfig = Field(default_factory=SubjectConfig, description="how it is loaded")
    batch_size: int = Field(default=8, ge=1, description="requests that are answered together")
    max_output_tokens: int = Field(default=1024, ge=1, description="longest answer, in tokens")
    thinking_tokens: int = Field(default=0, ge=0, description="tokens that it may think aloud before its answer")

    def settings(self) -> dict[str, Any]:
        """What of this changes what a step publishes; the model is named by its content.

        Which requests are answered together (``batch_size``, and which were remembered) changes answers by rounding.

        Raises:
            SubjectError: there is no such model.
        """
        return {
            "model": resolve_source(self.model).digest,
            "max_output_tokens": self.max_output_tokens,
            "thinking_tokens": self.thinking_tokens,
            "dtype": resolve_dtype(self.subject.dtype, device_name(self.subject.device)),
            "quantization": self.subject.quantization,
        }
