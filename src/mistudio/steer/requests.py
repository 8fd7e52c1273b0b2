"""What a request for text may hold, and what comes back: the same for servers, the client and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from mistudio.instrument.edits import Edits, Latent
from mistudio.instrument.messages import Message
from mistudio.settings import MOST_SEED, Settings

MAX_TOP_LOGPROBS = 20


class Watched(Settings):
    """A feature whose activation is to be reported with each token, as the model goes on with it after the edits."""

    feature: Latent
    autoencoder: str | None = Field(None, description="whose: name, URI or hook point; None: the first that is served")


def _watched_by_number(value: Latent | Watched) -> Watched:
    return Watched(feature=value) if isinstance(value, int) else value


if TYPE_CHECKING:
    WatchedOrNumber = Watched
else:  # once it is read, it is always the whole
    WatchedOrNumber = Annotated[
        Annotated[Latent, Tag("~number")] | Annotated[Watched, Tag("~whole")],
        Discriminator(lambda value: "~whole" if isinstance(value, dict | Watched) else "~number"),
        AfterValidator(_watched_by_number),
    ]


class Steering(Edits):
    """The ``steering`` part of a request."""

    preset: str | None = Field(None, max_length=200, description="name of a preset, whose edits act beside these")
    preset_strength: float = Field(
        1.0, ge=-1000, le=1000, description="factor on what the preset changes; outside its range, a warning comes back"
    )
    compare: bool = Field(False, description="answer without the edits too, and say how the two differ")
    watch: tuple[WatchedOrNumber, ...] = Field(
        (), max_length=256, description="features whose activations are reported, by number or with an autoencoder"
    )


class Sampling(Settings):
    """How the next token is chosen."""

    temperature: float = Field(1.0, ge=0, le=100, description="0: always the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1, description="of the likeliest tokens that together are as likely")
    top_k: int = Field(0, ge=0, le=1 << 31, description="of so many likeliest tokens; 0: of all")
    min_p: float = Field(0.0, ge=0, le=1, description="of tokens at least as likely as this share of the likeliest")
    seed: int | None = Field(None, ge=0, le=MOST_SEED, description="of what is drawn; None: another one each time")
    logit_bias: Mapping[int, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={}, max_length=1024, description="added to the logits of tokens, by their numbers"
    )


class GenerationRequest(Settings):
    """A prompt or a chat to be gone on with."""

    prompt: str | tuple[int, ...] | None = Field(None, description="a text, or token ids, which are taken as they are")
    messages: tuple[Message, ...] | None = Field(None, min_length=1, max_length=1024, description="a chat")
    max_tokens: int | None = Field(None, ge=1, description="generated tokens; None: what the server allows")
    sampling: Sampling = Field(default=Sampling(), description="how tokens are chosen")
    n: int = Field(1, ge=1, le=128, description="answers")
    stop: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(
        (), max_length=16, description="texts that end an answer; they are left out of it"
    )
    ignore_eos: bool = Field(False, description="go on behind the token that ends a text")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="log-probabilities of the tokens, with so many alternatives"
    )
    steering: Steering | None = Field(None, description="edits; None: the model as it is")

    @model_validator(mode="after")
    def _one_of_both(self) -> "GenerationRequest":
        if (self.prompt is None) == (self.messages is None):
            message = "give a prompt or messages, and not both"
            raise ValueError(message)
        return self


@dataclass(frozen=True)
class TokenLogprob:
    """A token of an answer, with the likeliest ones at its place."""

    token: str
    token_id: int
    logprob: float  # before temperature and all else that narrows the choice; logit bias included
    bytes: tuple[int, ...]
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class Delta:
    """What an answer goes on with."""

    index: int  # of the answer, from 0
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    watched: tuple[tuple[float, ...], ...] | None = None  # by token, then by watched feature


@dataclass(frozen=True)
class Finished:
    """An answer is at its end."""

    index: int
    reason: Literal["stop", "length", "content_filter"]
    detail: str | None = None  # where it was ended by a feature or a guard: by which
    warnings: tuple[str, ...] = ()  # what is doubtful about what was asked for


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Done:
    """Nothing comes after it."""

    usage: Usage
    comparison: "Comparison | None" = None


@dataclass(frozen=True)
class Failed:
    """Something went wrong that is not the request's fault, or only showed on the way; nothing comes after it."""

    error: Exception


Event = Delta | Finished | Done | Failed


@dataclass(frozen=True)
class Changed:
    """A stretch of tokens that two answers share, or in which they differ."""

    kind: Literal["same", "changed"]
    plain: str
    steered: str


@dataclass(frozen=True)
class Comparison:
    """The answer without the edits beside that with them, from one batch with the same draws."""

    plain_text: str
    plain_reason: Literal["stop", "length", "content_filter"]
    diff: tuple[Changed, ...]
    kl: tuple[float, ...]  # by token of the steered answer, from the plain distribution to the steered one; nats
    perplexity: float  # of the steered answer under the model as it is
    plain_perplexity: float  # of the plain answer
    watched_plain: tuple[tuple[float, ...], ...] | None  # by token of the plain answer, then by watched feature
    dose: Mapping[str, float]  # by hook point: mean norm of what was changed, of the activation's norm
