"""Settings of the service that generates."""

from typing import Literal

from pydantic import Field

from mistudio.settings import Settings
from mistudio.steer.bounds import SteerLimits
from mistudio.steer.guard import GuardSettings


class ServiceConfig(Settings):
    """How much is done at once, and how long a request may wait."""

    engine: Literal["static", "paged"] = Field(
        "static",
        description="static: our own, one row of a cache each; paged: transformers' continuous batching",
    )
    rows: int = Field(16, ge=1, le=4096, description="answers that are generated at once")
    max_tokens: int | None = Field(
        None, ge=2, description="tokens of a prompt and its answer; None: what the model takes, at most 4,096"
    )
    default_tokens: int = Field(256, ge=1, description="generated tokens where a request does not say")
    queue: int = Field(64, ge=0, description="requests that may wait for a row; further ones are refused")
    prompt_tokens_between_steps: int = Field(
        1024, ge=1, description="tokens of new prompts that are read between two steps of those under way"
    )
    limits: SteerLimits = Field(default=SteerLimits(), description="what requests may ask for")
    guard: GuardSettings = Field(default=GuardSettings(), description="when a steered answer is ended as collapsed")
