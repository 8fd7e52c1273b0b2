"""What ``find`` says of a whole search, in ``find.json``: what a reader of the tables needs to know."""

from pydantic import BaseModel, ConfigDict, Field


class About(BaseModel):
    """What the tables of a search were made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_tokens: int = Field(ge=0, description="training tokens that were searched")
    histogram_edges: list[float] = Field(description="edges of the bins of activations, one more than there are bins")
    context_before: int = Field(ge=0, description="tokens shown before a peak")
    context_after: int = Field(ge=0, description="tokens shown behind it")
    quantiles: list[float] = Field(description="which quantiles of the activations there are")
    tasks: list[str] = Field(description="the tasks that densities are given for")
    position_edges: list[int] = Field(description="where the classes of positions begin; the last is open")
