"""What to capture, and how it is stored."""

from typing import Literal

from pydantic import Field, field_validator

from mistudio.settings import DASHBOARD, Settings, option_name
from mistudio.subject import HookPoint

# A token so many times as far from the middle as half of all tokens is an outlier: an attention sink, most often.
# Measured by benchmarks/outliers.py; docs/concepts/training.md has the table.
OUTLIER_RATIO = 8.0


class CaptureConfig(Settings):
    """What to capture, and how it is stored."""

    hooks: tuple[str, ...] = Field(
        min_length=1, description="hook points, for example resid_post.3", json_schema_extra=option_name("hook")
    )
    batch_size: int = Field(
        default=32,
        ge=1,
        le=128,
        description="sequences of full length in one forward pass",
        json_schema_extra=DASHBOARD,
    )
    storage_dtype: Literal["float16", "bfloat16"] = Field(
        default="float16",
        description="number format of the stored activations; bfloat16 takes the place of float16 where a value is "
        "beyond 65,504",
        json_schema_extra=DASHBOARD,
    )
    shard_bytes: int = Field(default=256 << 20, ge=1 << 16, description="size of one shard, in bytes")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="stop after the training sequence that reaches this many kept tokens; None: never",
        json_schema_extra=DASHBOARD,
    )
    include_special: bool = Field(default=False, description="also keep BOS and other added special tokens")
    stored: Literal["all", "heldout"] = Field(
        default="all",
        description="heldout: training activations are not stored, but computed when they are asked for",
        json_schema_extra=DASHBOARD,
    )

    @field_validator("hooks")
    @classmethod
    def _hooks_are_different(cls, hooks: tuple[str, ...]) -> tuple[str, ...]:
        points = tuple(str(HookPoint.parse(hook)) for hook in hooks)
        if len(set(points)) != len(points):
            message = f"hooks names a hook point twice: {', '.join(points)}"
            raise ValueError(message)
        return points
