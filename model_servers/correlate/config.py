"""Settings of look-ups as they are served."""

from pydantic import Field

from mistudio.correlate.config import CorrelateConfig
from mistudio.settings import Settings


class ServingConfig(Settings):
    """How many look-ups are answered at once, and what they may do."""

    passes: int = Field(
        2, ge=1, le=64, description="look-ups at once that run the model: of texts, examples and concepts"
    )
    reads: int = Field(2, ge=1, le=64, description="look-ups at once that only read: of features, tokens and vectors")
    queue: int = Field(64, ge=0, le=100_000, description="look-ups of each kind that may wait; further ones get 429")
    allow_saving: bool = Field(
        False, description="directions may be kept in the store, which then is opened to be written"
    )
    limits: CorrelateConfig = Field(default=CorrelateConfig(), description="how much a look-up reads and gives")
