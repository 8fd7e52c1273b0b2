"""Settings of the service that generates."""

from pydantic import Field

from mistudio.settings import Settings


class ServiceConfig(Settings):
    """How much is done at once, and how long a request may wait."""

    rows: int = Field(16, ge=1, le=4096, description="answers that are generated at once")
    max_tokens: int | None = Field(
        None, ge=2, description="tokens of a prompt and its answer; None: what the model takes, at most 4,096"
    )
    default_tokens: int = Field(256, ge=1, description="generated tokens where a request does not say")
    queue: int = Field(64, ge=0, description="requests that may wait for a row; further ones are refused")
    prompt_tokens_between_steps: int = Field(
        1024, ge=1, description="tokens of new prompts that are read between two steps of those under way"
    )
