"""What to keep of each feature, and how much may be spent on it."""

from pydantic import Field

from mistudio.settings import COMMAND, DASHBOARD, Settings


class PassConfig(Settings):
    """What the pass over the activations keeps of each feature."""

    contexts: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="strongest contexts a feature, each from another document",
        json_schema_extra=DASHBOARD,
    )
    sampled_contexts: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="activating contexts a feature, drawn over the quantiles of its values",
        json_schema_extra=COMMAND,
    )
    context_before: int = Field(
        default=24, ge=0, le=512, description="tokens shown before the peak", json_schema_extra=DASHBOARD
    )
    context_after: int = Field(
        default=8, ge=0, le=512, description="tokens shown after the peak", json_schema_extra=DASHBOARD
    )
    include_statistics: bool = Field(
        default=True,
        description="count the tasks, positions and tokens that features go with",
        json_schema_extra=COMMAND,
    )
    sample_tokens: int = Field(
        default=131_072, ge=1024, description="about how many tokens co-activation and tokens are counted on"
    )
    chunk_rows: int = Field(default=65_536, ge=64, description="about how many activations are encoded at once")


class TrialConfig(Settings):
    """How features are tried in the model, and how much computation all of it may take."""

    ablation_contexts: int = Field(
        default=2,
        ge=0,
        le=100,
        description="contexts a feature in which taking it out is tried",
        json_schema_extra=DASHBOARD,
    )
    attribution_contexts: int = Field(
        default=1,
        ge=0,
        le=100,
        description="contexts a feature in which it is traced to input tokens",
        json_schema_extra=DASHBOARD,
    )
    attribution_steps: int = Field(
        default=5, ge=2, le=256, description="passes with gradients for each such context (integrated gradients)"
    )
    causal_tokens: int = Field(
        default=32, ge=1, le=4096, description="tokens before the peak that the model reads for these two"
    )
    causal_tflop: float | None = Field(
        default=None,
        ge=0,
        description="most computation for trying features in the model, in 10^12 operations",
        json_schema_extra=DASHBOARD,
    )


class FindConfig(PassConfig, TrialConfig):
    """What to keep of each feature, and how much may be spent on it.

    Where a step does not choose ``causal_tflop``, None is no limit: every feature is tried.
    """

    strata: int = Field(default=5, ge=1, le=100, description="quantiles that sampled contexts are drawn from")
    random_contexts: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="contexts a feature, drawn at random, in which it is not active",
        json_schema_extra=COMMAND,
    )
    hard_negatives: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="contexts a feature in which neighbours fire and it does not",
        json_schema_extra=COMMAND,
    )
    coherence_threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="coherence from which a feature counts as coherent",
        json_schema_extra=COMMAND,
    )
    neighbours: int = Field(default=10, ge=1, le=100, description="neighbours a feature, by each measure")
    duplicate_cosine: float = Field(
        default=0.9, gt=0, le=1, description="decoder cosine from which two features are near-duplicates"
    )
    map: bool = Field(default=True, description="lay the decoder's directions out in two dimensions (UMAP)")
    lens_tokens: int = Field(default=10, ge=1, le=100, description="promoted and suppressed output tokens a feature")


class MoreConfig(Settings):
    """Which further features are tried, and in how much of each."""

    only: str = Field(
        default="",
        description="features to try, such as 12,40-90 or coherent:50; empty: the next ones in the order of worth",
        json_schema_extra=DASHBOARD,
    )
    causal_tflop: float | None = Field(
        default=None,
        ge=0,
        description="most computation for trying features in the model, in 10^12 operations",
        json_schema_extra=DASHBOARD,
    )
    ablation_contexts: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="contexts a feature in which taking it out is tried; None: as many as find had",
        json_schema_extra=COMMAND,
    )
    attribution_contexts: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="contexts a feature in which it is traced to input tokens; None: as many as find had",
        json_schema_extra=COMMAND,
    )
