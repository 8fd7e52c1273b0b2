"""Settings of look-ups as they are served."""

from pydantic import Field

from mistudio.correlate.config import CorrelateConfig
from mistudio.settings import Settings


class ServingConfig(Settings):
    """How many look-ups are answered at once, and what they may do."""

    passes: int = Field(
        2,
        ge=1,
        le=64,
        description="look-ups at once that run the model: of texts, examples and concepts, and of features where there "
        "is an embedder",
    )
    reads: int = Field(2, ge=1, le=64, description="look-ups at once that only read: of features, tokens and vectors")
    queue: int = Field(64, ge=0, le=100_000, description="look-ups of each kind that may wait; further ones get 429")
    allow_saving: bool = Field(
        False, description="directions may be kept in the store, which then is opened to be written"
    )
    embed_with: str | None = Field(
        None,
        exclude=True,  # clients are not told where it is
        description="what makes vectors of concepts and explanations: subject, subject:LAYER, the folder of a "
        "sentence-transformers model, or ADDRESS#MODEL of an endpoint; those that are missing are made before the "
        "server is ready. None: concepts are searched by words",
    )
    limits: CorrelateConfig = Field(default=CorrelateConfig(), description="how much a look-up reads and gives")
