"""How traffic is read, apart from what is watched."""

from pydantic import Field, model_validator

from mistudio.settings import Settings


class WatchConfig(Settings):
    """How texts go through the model, and what is kept of them."""

    batch_tokens: int = Field(4096, ge=1, le=1 << 20, description="tokens of a forward pass, padding included")
    piece_tokens: int | None = Field(
        None,
        ge=4,
        description="tokens of a piece in which longer texts are read; None: what the model takes, at most 4,096",
    )
    overlap: int = Field(
        64, ge=0, le=1 << 16, description="tokens of the piece before that a piece begins with, as context alone"
    )
    max_tokens: int = Field(
        131_072, ge=1, le=1 << 24, description="tokens of a text that are read; the rest is cut off"
    )
    by_part: bool = Field(True, description="values of prompt and reply apart too, where a reply is there")
    keep_strings: bool = Field(False, description="keep the tokens' text in what is seen")

    @model_validator(mode="after")
    def _pieces_go_on(self) -> "WatchConfig":
        if self.piece_tokens is not None and 2 * self.overlap > self.piece_tokens:
            message = f"overlap {self.overlap} is more than half of piece_tokens {self.piece_tokens}"
            raise ValueError(message)
        return self
