"""Where activations are taken, how a direction is made of them, and what a figure of it is."""

from typing import Literal

from pydantic import Field

from mistudio.settings import COMMAND, DASHBOARD, Settings

Method = Literal["mean_difference", "logistic"]


class DirectionConfig(Settings):
    """Where activations are taken, and how a direction is made of them."""

    hook: str = Field(description="hook point, for example resid_post.3", json_schema_extra=DASHBOARD)
    method: Method = Field(
        default="mean_difference",
        description="how: the difference of the classes' means, or the normal of a logistic regression",
        json_schema_extra=DASHBOARD,
    )
    pool: Literal["mean", "last"] = Field(
        default="mean", description="how the tokens of an example become one vector", json_schema_extra=DASHBOARD
    )
    positive_label: str | None = Field(
        default=None,
        description="label of the positive examples; None: 1, true, yes, positive or pos, beside its opposite",
        json_schema_extra=DASHBOARD,
    )
    negative_label: str | None = Field(
        default=None, description="label of the negative examples; None: all other labels", json_schema_extra=DASHBOARD
    )
    roles: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="of chats: whose messages are read; None: all"
    )
    max_examples: int = Field(
        default=2000, ge=16, description="examples of a class at most, drawn at random", json_schema_extra=COMMAND
    )
    context_length: int = Field(
        default=512, ge=1, description="tokens of a piece in which longer texts are read, special ones included"
    )
    c: float = Field(
        default=1.0, gt=0, description="of logistic: how little it is regularised (C), on standardised activations"
    )
    controls: int = Field(default=20, ge=2, description="random directions, and shuffles of labels, to compare with")
    resamples: int = Field(default=1000, ge=20, description="bootstrap resamples of the held-out examples")


class Figure(Settings):
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float
