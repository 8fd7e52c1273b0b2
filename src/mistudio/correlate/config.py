"""How much look-ups read and give."""

from pydantic import Field

from mistudio.settings import Settings


class CorrelateConfig(Settings):
    """Limits of look-ups."""

    max_tokens: int = Field(
        32_768, ge=16, description="tokens of a text or chat; all examples together may have 8 times as many"
    )
    piece_tokens: int = Field(
        2048, ge=8, description="tokens of a piece in which longer texts are read, special ones included"
    )
    max_values: int = Field(
        262_144, ge=1, description="activations by token in a reply: hits, or strongest features, times tokens"
    )
    max_examples: int = Field(2000, ge=16, description="examples of a class that are read at most, drawn at random")
    resamples: int = Field(1000, ge=20, description="bootstrap resamples of held-out examples")
    controls: int = Field(20, ge=2, description="random directions, and shuffles of labels, to compare with")
