"""Look-ups from Python: ``client.correlate.text("Once upon a time").hits``.

What is asked has the fields of ``mistudio.correlate.queries``; what comes back has those of ``….correlate.replies``.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field

from mistudio.client.calls import Call, MessageLike, plain

ExampleLike = str | Sequence[MessageLike]


class Look(TypedDict, total=False):
    """What all look-ups can be asked."""

    autoencoder: str
    top: int


class TextLook(Look, total=False):
    """... and those of a text."""

    messages: Sequence[MessageLike]
    ids: Sequence[int]
    roles: Sequence[str]
    pool: Literal["max", "mean", "difference", "standardised"]
    by_token: bool
    strongest: int


class ConceptLook(Look, total=False):
    """... of a concept."""

    how: Literal["lexical", "embedding", "both"]


class TokenLook(Look, total=False):
    """... of a token."""

    ways: Sequence[Literal["lens", "contexts", "lift"]]
    suppressed: bool


class FeatureLook(Look, total=False):
    """... of a feature."""

    relations: Sequence[Literal["decoder", "correlation", "pmi", "jaccard", "explanation"]]


class ExamplesLook(Look, total=False):
    """... of examples."""

    roles: Sequence[str]
    side: Literal["positive", "negative", "both"]
    pool: Literal["max", "mean"]
    direction_pool: Literal["mean", "last"]
    method: Literal["mean_difference", "logistic"]
    save_as: str
    author: str
    seed: int


class VectorLook(Look, total=False):
    """... of a vector."""

    direction: str
    sides: Sequence[Literal["decoder", "encoder"]]
    opposite: bool


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer server may say more


class Hit(_Reply):
    """A feature that goes with what was asked for."""

    feature: int
    autoencoder: str
    measure: str = Field(description="name of the value")
    value: float = Field(description="what the look-up orders by")
    values: Mapping[str, float] = Field({}, description="further figures, by name")
    by_token: tuple[float, ...] | None = Field(None, description="activation on each token of the reply")
    label: str | None = Field(None, description="what is said of it, in a few words")
    explanation: str | None = None
    explainer: str | None = Field(None, description="of a concept: who said it")
    score: float | None = Field(None, description="how well that holds")
    density: float | None = Field(None, description="share of the training tokens that it fires on")
    decoder_norm: float
    page: str | None = Field(None, description="where the store has its page")


class TokenFeature(_Reply):
    """A feature on a token."""

    feature: int
    value: float


class ReadToken(_Reply):
    """A token of a text, as it was read."""

    id: int
    text: str
    start: int | None = None
    end: int | None = None
    role: str | None = None
    left_out: str | None = Field(None, description="why it does not count; None: it counts")
    strongest: tuple[TokenFeature, ...] = ()


class Figure(_Reply):
    """A figure with its interval."""

    value: float
    low: float
    high: float


class SavedDirection(_Reply):
    """A direction that was kept."""

    name: str
    uri: str
    digest: str
    hook: str
    norm: float


class Separation(_Reply):
    """How well what was made of one half of the examples tells those of the other half apart."""

    positive: int
    negative: int
    left_out: Mapping[str, int]
    auroc: Figure
    random_auroc: Figure
    shuffled_auroc: Figure
    shuffled_feature_auroc: Figure
    saved: SavedDirection | None = None


class Origin(_Reply):
    """An artifact that a reply comes from."""

    uri: str
    digest: str


class Found(_Reply):
    """What comes back from a look-up."""

    look_up: str
    autoencoder: str
    hook: str
    hits: tuple[Hit, ...] = Field(description="best first; of several measures, one after the other")
    tokens: tuple[ReadToken, ...] | None = None
    num_tokens: int | None = None
    separation: Separation | None = None
    index: str | None = None
    warnings: tuple[str, ...] = ()
    lineage: Mapping[str, Origin] = {}


class LookUps:
    """Look-ups, by the client that waits; errors as in ``mistudio.errors``.

    Args:
        post: asks a server, and gives the JSON of its reply.
    """

    def __init__(self, post: Callable[[Call], Any]) -> None:
        self._post = post

    def text(self, text: str | None = None, **asked: Unpack[TextLook]) -> Found:
        """The features that are active on a text, or on the ``messages`` of a chat or ``ids`` of tokens."""
        return self._found(look_up("text", asked, text=text))

    def concept(self, concept: str, **asked: Unpack[ConceptLook]) -> Found:
        """The features whose explanations speak of a concept."""
        return self._found(look_up("concept", asked, concept=concept))

    def token(self, token: str | int, **asked: Unpack[TokenLook]) -> Found:
        """The features that write a token, or are active on it."""
        return self._found(look_up("token", asked, token=token))

    def feature(self, feature: int, **asked: Unpack[FeatureLook]) -> Found:
        """The features like one, or that fire with it."""
        return self._found(look_up("feature", asked, feature=feature))

    def examples(
        self, positive: Sequence[ExampleLike], negative: Sequence[ExampleLike], **asked: Unpack[ExamplesLook]
    ) -> Found:
        """The features that tell positive examples from negative ones, and the direction between them."""
        return self._found(look_up("examples", asked, positive=positive, negative=negative))

    def vector(self, vector: Sequence[float] | None = None, **asked: Unpack[VectorLook]) -> Found:
        """The features that point as a vector does, or a saved ``direction``."""
        return self._found(look_up("vector", asked, vector=vector))

    def _found(self, call: Call) -> Found:
        return Found.model_validate(self._post(call))


class AsyncLookUps:
    """Look-ups, by the client that lets others go on; errors as in ``mistudio.errors``.

    Args:
        post: asks a server, and gives the JSON of its reply.
    """

    def __init__(self, post: Callable[[Call], Awaitable[Any]]) -> None:
        self._post = post

    async def text(self, text: str | None = None, **asked: Unpack[TextLook]) -> Found:
        """The features that are active on a text, or on the ``messages`` of a chat or ``ids`` of tokens."""
        return await self._found(look_up("text", asked, text=text))

    async def concept(self, concept: str, **asked: Unpack[ConceptLook]) -> Found:
        """The features whose explanations speak of a concept."""
        return await self._found(look_up("concept", asked, concept=concept))

    async def token(self, token: str | int, **asked: Unpack[TokenLook]) -> Found:
        """The features that write a token, or are active on it."""
        return await self._found(look_up("token", asked, token=token))

    async def feature(self, feature: int, **asked: Unpack[FeatureLook]) -> Found:
        """The features like one, or that fire with it."""
        return await self._found(look_up("feature", asked, feature=feature))

    async def examples(
        self, positive: Sequence[ExampleLike], negative: Sequence[ExampleLike], **asked: Unpack[ExamplesLook]
    ) -> Found:
        """The features that tell positive examples from negative ones, and the direction between them."""
        return await self._found(look_up("examples", asked, positive=positive, negative=negative))

    async def vector(self, vector: Sequence[float] | None = None, **asked: Unpack[VectorLook]) -> Found:
        """The features that point as a vector does, or a saved ``direction``."""
        return await self._found(look_up("vector", asked, vector=vector))

    async def _found(self, call: Call) -> Found:
        return Found.model_validate(await self._post(call))


def look_up(name: str, asked: Look, **given: Any) -> Call:
    """The request for a look-up; what is None is left out."""
    fields = {**given, **asked}
    return Call(f"/v1/correlate/{name}", plain({key: value for key, value in fields.items() if value is not None}))
