"""What a look-up is asked, and what comes back: the same for servers, the client and the command line.

Every query names an autoencoder, or means the first that is served, as edits do. Values of two autoencoders have
different units, so that one reply is of one.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from mistudio.instrument.edits import Latent
from mistudio.instrument.messages import Message
from mistudio.plain_text import has_surrogates, shortened
from mistudio.settings import MOST_SEED, Settings

MAX_TOP = 1000
MAX_TEXT = 1_000_000  # characters of a text; a server's own limit is in tokens
MAX_IDS = 262_144
MAX_EXAMPLES = 4096  # of a class
MAX_WIDTH = 65_536
MAX_TOKEN_TEXT = 1000  # characters

Chat = Annotated[tuple[Message, ...], Field(min_length=1, max_length=1024)]


def _text_or_chat(value: object) -> str | None:
    return "text" if isinstance(value, str) else "messages" if isinstance(value, list | tuple) else None


ExampleText = Annotated[
    Annotated[str, Field(max_length=MAX_TEXT), Tag("text")] | Annotated[Chat, Tag("messages")],
    Discriminator(
        _text_or_chat,
        custom_error_type="text_or_chat",
        custom_error_message="An example is a text, or the list of messages of a chat",
    ),
]
Roles = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(min_length=1, max_length=16)]
Pool = Literal["max", "mean", "difference", "standardised"]
Relation = Literal["decoder", "correlation", "pmi", "jaccard", "explanation"]
How = Literal["lexical", "embedding", "both"]
TokenWay = Literal["lens", "contexts", "lift"]


class Query(Settings):
    """What all look-ups are asked."""

    autoencoder: str | None = Field(
        None, max_length=500, description="whose features: name, URI or hook point; None: the first that is served"
    )
    top: int = Field(10, ge=1, le=MAX_TOP, description="features to give at most, of each measure")


class TextQuery(Query):
    """Which features are active on a text, a chat or tokens."""

    text: str | None = Field(None, max_length=MAX_TEXT, description="a text")
    messages: Chat | None = Field(None, description="a chat, in place of a text")
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, max_length=MAX_IDS, description="token ids as they are, in place of a text"
    )
    roles: Roles | None = Field(None, description="of a chat: whose messages count; None: all")
    pool: Pool = Field(
        "max",
        description="what features are ordered by: the largest activation, the mean over the tokens that count, that "
        "mean less the feature's mean over the training tokens, or the same in standard deviations",
    )
    by_token: bool = Field(False, description="the activation of each hit on each token too")
    strongest: int = Field(0, ge=0, le=100, description="strongest features of each token to give")

    @model_validator(mode="after")
    def _one_of_three(self) -> "TextQuery":
        given = [name for name in ("text", "messages", "ids") if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"give one of text, messages or ids; given: {', '.join(given) or 'none'}"
            raise ValueError(message)
        if self.roles is not None and self.messages is None:
            message = "roles are of a chat: give messages, or leave roles out"
            raise ValueError(message)
        return self


class ConceptQuery(Query):
    """Which features an explanation says a concept of."""

    concept: str = Field(min_length=1, max_length=4000, description="what is looked for, in words")
    how: How | None = Field(
        None, description="by the words, by their meaning (embeddings), or both; None: both where there are embeddings"
    )


class TokenQuery(Query):
    """Which features go with a token: which write it, and which are active on it."""

    token: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1, max_length=MAX_TOKEN_TEXT)] = Field(
        description="its id, or a text that is one token"
    )
    ways: tuple[TokenWay, ...] | None = Field(
        None,
        min_length=1,
        max_length=3,
        description="lens: what the decoder adds to the token's logit; contexts: features whose top contexts peak on "
        "it; lift: features that fire on it more often than by chance. None: all that are known",
    )
    suppressed: bool = Field(False, description="lens: features that make it less likely, in place of likelier")

    @field_validator("token", mode="before")
    @classmethod
    def _id_or_text(cls, token: object) -> object:
        """One message in place of one for each of the two."""
        is_id = isinstance(token, int) and not isinstance(token, bool) and token >= 0
        is_text = isinstance(token, str) and 0 < len(token) <= MAX_TOKEN_TEXT and not has_surrogates(token)
        if not (is_id or is_text):
            message = (
                f"token: give its id, from 0, or a text of 1 to {MAX_TOKEN_TEXT:,} characters; not {shortened(token)}"
            )
            raise ValueError(message)
        return token


class FeatureQuery(Query):
    """Which features are like a feature, or fire with it."""

    feature: Latent
    relations: tuple[Relation, ...] | None = Field(
        None,
        min_length=1,
        max_length=5,
        description="decoder: cosine of decoder directions; correlation, pmi, jaccard: how they fire together; "
        "explanation: what is said of them. None: all that are known",
    )


class ExamplesQuery(Query):
    """Which features tell positive examples from negative ones, and the direction between them."""

    top: int = Field(10, ge=1, le=100, description="features to give at most")
    positive: tuple[ExampleText, ...] = Field(max_length=MAX_EXAMPLES, description="texts, or chats")
    negative: tuple[ExampleText, ...] = Field(max_length=MAX_EXAMPLES, description="texts, or chats")
    roles: Roles | None = Field(None, description="of chats: whose messages count; None: all")
    side: Literal["positive", "negative", "both"] = Field(
        "positive", description="features that are stronger on these examples"
    )
    pool: Literal["max", "mean"] = Field("max", description="how a feature's activations on an example become one")
    direction_pool: Literal["mean", "last"] = Field(
        "mean", description="how the activations of an example's tokens become one vector for the direction"
    )
    method: Literal["mean_difference", "logistic"] = Field("mean_difference", description="how the direction is made")
    save_as: str | None = Field(
        None, min_length=1, max_length=100, description="name to keep the direction under; None: it is not kept"
    )
    author: str | None = Field(None, min_length=1, max_length=200, description="who says so; needed with save_as")
    seed: int = Field(0, ge=0, le=MOST_SEED, description="of the halves, resamples and controls")


class VectorQuery(Query):
    """Which features point as a vector does."""

    vector: tuple[float, ...] | None = Field(None, min_length=1, max_length=MAX_WIDTH, description="its components")
    direction: str | None = Field(
        None, min_length=1, max_length=200, description="a saved direction, in place of a vector"
    )
    sides: tuple[Literal["decoder", "encoder"], ...] = Field(
        ("decoder",),
        min_length=1,
        max_length=2,
        description="which rows it is compared with: what features write or read",
    )
    opposite: bool = Field(False, description="features that point the other way")

    @model_validator(mode="after")
    def _one_of_both(self) -> "VectorQuery":
        if (self.vector is None) == (self.direction is None):
            message = "give a vector or the name of a direction, and not both"
            raise ValueError(message)
        return self


QUERIES: Mapping[str, type[Query]] = {
    "text": TextQuery,
    "concept": ConceptQuery,
    "token": TokenQuery,
    "feature": FeatureQuery,
    "examples": ExamplesQuery,
    "vector": VectorQuery,
}
