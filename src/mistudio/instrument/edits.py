"""What can be done to a model's activations while it runs: the edits, where and when they act.

An edit names features of an autoencoder, or a direction, at the hook point that these belong to. All edits at one hook
point look at the activation as it arrives there, with what edits at earlier hook points did to it; what they change is
added up. A feature's activation is read by its encoder, and only the feature's part is changed: what the autoencoder
does not reconstruct stays as it is, and so do the other features.

    add        activation + strength x direction
    clamp      the feature's activation becomes a value
    scale      ... is multiplied
    ablate     ... becomes zero
    cap        ... or the projection on a direction becomes no larger than a value

Tokens are known by their place in the sequence: those of the prompt, and those that were generated. The first token of
an answer is predicted at the last token of the prompt, so that edits of generated tokens alone leave it as it is.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from mistudio.settings import Settings

Tokens = Literal["all", "prompt", "generated"]
Unit = Literal["absolute", "relative", "feature_max"]
MAX_FEATURES = 4096  # of one edit
_MOST = 1e9  # far beyond all that is meant, and far from where numbers end

Latent = Annotated[int, Field(ge=0, description="number of a feature of the autoencoder")]


class Where(Settings):
    """Tokens on which an edit acts: those that all of what is given agrees on, less those that are excluded."""

    tokens: Tokens = Field("all", description="of the prompt, of the answer, or both")
    positions: tuple[int, ...] | None = Field(
        None, max_length=4096, description="places in the sequence, from 0; negative ones count from the prompt's end"
    )
    window: tuple[int, int] | None = Field(
        None, description="of the answer: first token, from 0, and the one behind the last"
    )
    roles: tuple[str, ...] | None = Field(None, max_length=16, description="of a chat: whose messages")
    specials: bool = Field(False, description="special tokens and those of the chat's template too")
    exclude: "Where | None" = Field(None, description="tokens on which it does not act, whatever the rest says")

    @model_validator(mode="after")
    def _window_is_one(self) -> "Where":
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            message = f"window {list(self.window)} holds no token: give the first, from 0, and the one behind the last"
            raise ValueError(message)
        return self


class Schedule(Settings):
    """How an edit's effect changes while the answer grows: from one factor to another, and constant from there on."""

    start: float = Field(1.0, ge=-1000, le=1000, description="factor on the prompt and on the first generated token")
    end: float = Field(1.0, ge=-1000, le=1000, description="factor after ``steps`` generated tokens")
    steps: int = Field(1, ge=1, le=1_000_000, description="generated tokens from the one to the other, in a line")


class When(Settings):
    """A feature, and the value above which it counts as firing. It is read before the edits at its hook point."""

    feature: Latent
    above: float = Field(0.0, ge=0, description="its activation has to exceed this")
    autoencoder: str | None = Field(None, description="whose feature: name, URI or hook point; None: the first")


class Condition(When):
    """When an edit acts, beside where."""

    lasting: bool = Field(
        True,
        description="true: on all tokens behind the first that fires; false: on the firing tokens themselves, for a "
        "feature that is read no later in the model than the edit acts",
    )


def _where_by_name(value: Tokens | Where) -> Where:
    return Where(tokens=value) if isinstance(value, str) else value


if TYPE_CHECKING:
    WhereOrWord = Where
else:  # once it is read, it is always the whole
    WhereOrWord = Annotated[
        Annotated[Tokens, Tag("~word")] | Annotated[Where, Tag("~whole")],
        Discriminator(lambda value: "~word" if isinstance(value, str) else "~whole"),
        AfterValidator(_where_by_name),
    ]


class _Edit(Settings):
    where: WhereOrWord = Field(default=Where(), description="tokens on which it acts; a word stands for ``tokens``")
    when: Condition | None = Field(None, description="condition; None: always")
    schedule: Schedule | None = Field(None, description="factor on what it changes, by generated token; None: 1")


class _OfFeatures(_Edit):
    feature: Latent | None = Field(None, description="one feature")
    features: tuple[Latent, ...] | None = Field(
        None, min_length=1, max_length=MAX_FEATURES, description="several features, in place of one"
    )
    autoencoder: str | None = Field(None, description="whose: name, URI or hook point; None: the first that is served")

    @model_validator(mode="after")
    def _what_is_named_once(self) -> "_OfFeatures":
        named = [name for name in ("feature", "features", "direction") if getattr(self, name, None) is not None]
        choices = "feature, features or direction" if "direction" in type(self).model_fields else "feature or features"
        if len(named) != 1:
            message = f"{getattr(self, 'op', 'edit')} needs one of {choices}; given: {', '.join(named) or 'none'}"
            raise ValueError(message)
        if self.features is not None and len(set(self.features)) < len(self.features):
            message = f"features names one twice: {list(self.features)}"
            raise ValueError(message)
        if getattr(self, "direction", None) is not None and self.autoencoder is not None:
            message = "a direction has its own hook point: leave out autoencoder"
            raise ValueError(message)
        return self

    @property
    def latents(self) -> tuple[int, ...]:
        """The features that are named; none where a direction is."""
        if self.features is not None:
            return self.features
        return () if self.feature is None else (self.feature,)


class Add(_OfFeatures):
    """Add a direction: a feature's, as its decoder writes it, or one that was saved under a name."""

    op: Literal["add"] = "add"
    direction: str | None = Field(None, max_length=200, description="name of a direction, in place of a feature")
    strength: float = Field(ge=-_MOST, le=_MOST, description="how much of it, in the unit")
    unit: Unit = Field(
        "absolute",
        description="absolute: times the vector as it is; relative: of the activation's norm, whatever the vector's "
        "length; feature_max: of the feature's largest activation",
    )

    @model_validator(mode="after")
    def _directions_have_no_maximum(self) -> "Add":
        if self.direction is not None and self.unit == "feature_max":
            message = "unit feature_max is for features; for a direction give absolute or relative"
            raise ValueError(message)
        return self


class Clamp(_OfFeatures):
    """Set a feature's activation to a value."""

    op: Literal["clamp"] = "clamp"
    value: float = Field(ge=-_MOST, le=_MOST, description="the activation, in the unit")
    unit: Literal["absolute", "feature_max"] = Field(
        "absolute", description="absolute, or in parts of the feature's largest activation"
    )


class Scale(_OfFeatures):
    """Multiply a feature's activation."""

    op: Literal["scale"] = "scale"
    factor: float = Field(ge=-1000, le=1000, description="what it is multiplied by")


class Ablate(_OfFeatures):
    """Take a feature's part out."""

    op: Literal["ablate"] = "ablate"


class Cap(_OfFeatures):
    """Keep a feature's activation, or the projection on a direction, from exceeding a value."""

    op: Literal["cap"] = "cap"
    direction: str | None = Field(None, max_length=200, description="name of a direction, in place of a feature")
    value: float = Field(
        ge=-_MOST, le=_MOST, description="the most that is left, in the unit; along a direction of length 1"
    )
    unit: Literal["absolute", "feature_max"] = Field(
        "absolute", description="absolute, or in parts of the feature's largest activation"
    )

    @model_validator(mode="after")
    def _directions_have_no_maximum(self) -> "Cap":
        if self.direction is not None and self.unit == "feature_max":
            message = "unit feature_max is for features; for a direction give absolute"
            raise ValueError(message)
        return self


Edit = Annotated[Add | Clamp | Scale | Ablate | Cap, Discriminator("op")]


class Edits(Settings):
    """What is changed in one request; nothing, where it is empty."""

    edits: tuple[Edit, ...] = Field((), max_length=256, description="edits, all of which act")
    stop_when: tuple[When, ...] = Field((), max_length=64, description="features that end the answer when they fire")

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.edits or self.stop_when)


def features_of(edits: Sequence[BaseModel]) -> set[tuple[str | None, int]]:
    """All features that edits name, conditions included, each with its autoencoder."""
    found: set[tuple[str | None, int]] = set()
    for edit in edits:
        if isinstance(edit, _OfFeatures):
            found |= {(edit.autoencoder, latent) for latent in edit.latents}
        when = edit if isinstance(edit, When) else getattr(edit, "when", None)
        if isinstance(when, When):
            found.add((when.autoencoder, when.feature))
    return found
