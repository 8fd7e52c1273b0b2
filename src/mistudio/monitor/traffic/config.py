"""How traffic comes in: what of a body is a text, for how long halves of an exchange wait, and how much is held."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mistudio.errors import ConfigError
from mistudio.settings import Settings

Name = Annotated[str, Field(min_length=1, max_length=128)]
Names = tuple[Name, ...]
MIB = 1 << 20


class FieldNames(Settings):
    """What models call the parts of their bodies, beyond OpenAI's API; the first name that a body has is taken."""

    text: Names = Field(
        ("text", "prompt", "input", "inputs", "text_input", "query", "question", "content"),
        max_length=32,
        description="fields and V2 tensors of requests that hold a text",
    )
    messages: Names = Field(("messages", "chat"), max_length=32, description="fields of requests that hold a chat")
    ids: Names = Field(
        ("input_ids", "token_ids", "prompt_token_ids"),
        max_length=32,
        description="fields and V2 tensors of requests that hold token ids",
    )
    reply: Names = Field(
        ("generated_text", "text", "text_output", "output", "outputs", "completion", "reply", "response", "answer"),
        max_length=32,
        description="fields and V2 tensors of replies that hold a text",
    )
    tenant: Names = Field(
        ("user", "safety_identifier"), max_length=8, description="fields of requests that say who asks"
    )


class RecordSettings(Settings):
    """Whether traffic is kept as it came, and how much of it."""

    folder: Path | None = Field(
        None,
        description="folder to which events of loggers are appended as they came, with their texts, for mistudio "
        "monitor read, try and profile; None: they are not",
    )
    max_file_bytes: int = Field(
        64 * MIB, ge=1024, le=1 << 40, description="bytes above which a file of recorded events is not gone on with"
    )
    max_files: int = Field(16, ge=1, le=10_000, description="files of recorded events; the oldest are removed first")


class TrafficSettings(Settings):
    """Settings of what comes in; all of it is bounded."""

    fields: FieldNames = Field(default_factory=FieldNames, description="names of the parts of bodies")
    tenant_header: str = Field(
        "", max_length=128, description="metadata header of the logger that says who asks; empty: a field of the body"
    )
    model_from: Literal["service", "body"] = Field(
        "service", description="what a model is called: its InferenceService's name, or the field model of a request"
    )
    logs: Literal["both", "request", "response"] = Field(
        "both", description="what the logger sends: nothing waits for a half that never comes"
    )
    join_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="seconds that half of an exchange waits for the other"
    )
    max_event_bytes: int = Field(
        8 * MIB, ge=1024, le=1 << 30, description="bytes of one event; a larger one is dropped"
    )
    max_batch_events: int = Field(1000, ge=1, le=100_000, description="events of one batch")
    max_waiting: int = Field(20_000, ge=1, le=10_000_000, description="halves that wait for the other")
    max_waiting_bytes: int = Field(128 * MIB, ge=1024, le=1 << 40, description="bytes of them")
    max_queue: int = Field(2_000, ge=1, le=10_000_000, description="exchanges that wait to be read by the model")
    max_queue_bytes: int = Field(64 * MIB, ge=1024, le=1 << 40, description="bytes of them")
    recent_ids: int = Field(
        50_000, ge=0, le=10_000_000, description="ids of exchanges that are remembered, to know events that come twice"
    )
    max_unpacked_bytes: int = Field(16 * MIB, ge=1024, le=1 << 30, description="bytes of a body once it is unpacked")
    max_samples: int = Field(64, ge=1, le=10_000, description="texts of one exchange; further ones are counted")
    max_clock_skew_s: float = Field(
        3600.0, ge=0, le=1e9, description="seconds that an event's time may differ from when it came; else the latter"
    )

    @model_validator(mode="after")
    def _check_bytes(self) -> Self:
        for name in ("max_waiting_bytes", "max_queue_bytes"):
            if getattr(self, name) < 4 * self.max_event_bytes:  # an exchange has two events, each with what goes around
                message = (
                    f"{name} {getattr(self, name):,} is less than four times max_event_bytes "
                    f"{self.max_event_bytes:,}, so that a large exchange would never fit: raise it or lower the other."
                )
                raise ConfigError(message)
        return self
