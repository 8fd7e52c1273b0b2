"""What explainers read of a feature, and what they say of it."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

ExampleKind = Literal["top", "sampled", "random", "hard_negative"]


class Example(NamedTuple):
    """A few tokens of one document, and a feature's activation on each."""

    kind: ExampleKind  # strongest, drawn over the activations' quantiles, or not activating: any, or hard negatives
    tokens: tuple[str, ...]  # as people read them
    values: tuple[float, ...]  # beside the tokens; 0 where the feature is not active
    peak: int  # the token that it was chosen for, as a place in ``tokens``
    document: int
    sequence: int
    position: int  # of that token in its document
    task: str

    @property
    def is_active(self) -> bool:
        """Whether the feature is active on any of the tokens."""
        return any(value > 0 for value in self.values)


class Evidence(NamedTuple):
    """What an explainer may see of one feature: all of it from the documents of the training split."""

    feature: int
    examples: tuple[Example, ...]
    density: float  # fraction of the tokens it is active on
    max_value: float
    promoted: tuple[str, ...] = ()  # output tokens that its direction makes likelier, strongest first
    suppressed: tuple[str, ...] = ()

    @property
    def documents(self) -> tuple[int, ...]:
        """The documents that the examples come from, ascending."""
        return tuple(sorted({example.document for example in self.examples}))


class Explanation(BaseModel):
    """What one explainer says of one feature, and how it came to that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: int = Field(ge=0)
    explainer: str = Field(description="what made it: program, max-activating, ..., or person")
    status: Literal["explained", "dead", "failed"] = "explained"
    text: str = Field(default="", description="plain English; for a dead feature or a failure, why there is none")
    label: str = Field(default="", description="a few words")
    confidence: float | None = Field(default=None, ge=0, le=1, description="fit on the documents that were seen")
    program: str | None = Field(default=None, description="what predicts the activation of any token, as JSON")
    model: str | None = Field(default=None, description="language model that wrote it")
    prompt: str | None = Field(default=None, description="sha256 of the prompt, in hexadecimal")
    seed: int = 0
    documents: tuple[int, ...] = Field(default=(), description="training documents that were shown, ascending")


class Explainer(Protocol):
    """Explains features; other packages register theirs under the entry point ``mistudio.explainers``."""

    name: str

    def explain(self, features: Iterable[Evidence]) -> Iterator[Explanation]:
        """One explanation a feature, in any order; what fails comes with ``status="failed"`` and is never left out."""
