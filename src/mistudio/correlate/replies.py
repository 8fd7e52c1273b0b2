"""What look-ups reply.

Shape legend: T tokens of a text.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from mistudio.directions.config import Figure
from mistudio.settings import Settings

WhyNot = Literal["special", "template", "role", "beyond_norm"]


class Hit(Settings):
    """A feature that goes with what was asked for."""

    feature: int = Field(description="its number")
    autoencoder: str = Field(description="whose, by the name that requests call it")
    measure: str = Field(description="name of the value: max, mean, logit, cosine, auroc, …")
    value: float = Field(description="what the look-up orders by")
    values: Mapping[str, float] = Field(default={}, description="further figures of the look-up, by name")
    by_token: tuple[float, ...] | None = Field(None, description="activation on each token of the reply [T]")
    label: str | None = Field(None, description="what is said of it, in a few words")
    explanation: str | None = Field(None, description="of a concept: the text that was found")
    explainer: str | None = Field(None, description="of a concept: who said it")
    score: float | None = Field(None, description="how well that holds: the main figure of its scores")
    density: float | None = Field(None, description="share of the training tokens that it fires on")
    decoder_norm: float = Field(description="length of its decoder direction")
    page: str | None = Field(None, description="where the store has its page; None: there is none")


class TokenFeature(Settings):
    """A feature on a token."""

    feature: int
    value: float = Field(description="its activation")


class ReadToken(Settings):
    """A token of a text, as it was read."""

    id: int
    text: str = Field(description="how it reads")
    start: int | None = Field(None, description="first character in the text; None: cannot be told")
    end: int | None = Field(None, description="the one behind the last")
    role: str | None = Field(None, description="whose message it is of; None: no message's")
    left_out: WhyNot | None = Field(None, description="why it does not count; None: it counts")
    strongest: tuple[TokenFeature, ...] = Field((), description="strongest features, where they were asked for")


class SavedDirection(Settings):
    """A direction that was kept."""

    name: str
    uri: str = Field(description="of its artifact")
    digest: str
    hook: str
    norm: float


class Separation(Settings):
    """How well what was made of one half of the examples tells those of the other half apart."""

    positive: int = Field(description="examples that were used")
    negative: int
    left_out: Mapping[str, int] = Field(description="examples that could not be used, by the reason")
    auroc: Figure = Field(description="of the direction on the held-out half, with its 95% interval")
    random_auroc: Figure = Field(description="of random directions: mean, and the middle 95%")
    shuffled_auroc: Figure = Field(description="of directions made after labels were shuffled; likewise")
    shuffled_feature_auroc: Figure = Field(
        description="of the feature that is chosen first after labels were shuffled, on the held-out half; likewise"
    )
    saved: SavedDirection | None = None


class Origin(Settings):
    """An artifact that a reply comes from."""

    uri: str
    digest: str


class Reply(Settings):
    """What comes back from a look-up."""

    look_up: str = Field(description="text, concept, token, feature, examples or vector")
    autoencoder: str = Field(description="whose features, by the name that requests call it")
    hook: str = Field(description="hook point that it reads")
    hits: tuple[Hit, ...] = Field(description="best first; of several measures, one after the other")
    tokens: tuple[ReadToken, ...] | None = Field(
        None, description="of a text or chat, where they were asked for [T]; the token"
    )
    num_tokens: int | None = Field(None, description="tokens that count")
    separation: Separation | None = Field(None, description="of examples")
    index: str | None = Field(None, description="artifact of the index that was searched; None: compared with all")
    warnings: tuple[str, ...] = Field((), description="what is doubtful about what was asked for")
    lineage: Mapping[str, Origin] = Field(
        description="what it comes from: subject, sae, features, explanations, scores"
    )
