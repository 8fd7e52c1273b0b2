"""What the pages show."""

from pydantic import Field

from mistudio.settings import DASHBOARD, Settings


class ReportConfig(Settings):
    """What the dashboard shows."""

    title: str = Field(
        default="Feature dashboard",
        min_length=1,
        max_length=200,
        description="heading of the page",
        json_schema_extra=DASHBOARD,
    )
    max_features: int | None = Field(
        default=10_000,
        ge=1,
        description="features in the list, those of most worth; each adds about 4 kB to the page; null shows all",
    )
    contexts_per_feature: int = Field(
        default=10, ge=0, le=1000, description="strongest contexts shown of a feature", json_schema_extra=DASHBOARD
    )
    sampled_contexts: int = Field(
        default=5, ge=0, le=1000, description="contexts shown of a feature, drawn over the range of its activations"
    )
    silent_contexts: int = Field(
        default=3,
        ge=0,
        le=1000,
        description="contexts shown without the feature: hard negatives, and as many others",
    )

    @property
    def contexts_of_kind(self) -> dict[str, int]:
        """How many contexts are shown, by their kind."""
        silent = self.silent_contexts
        return {
            "top": self.contexts_per_feature,
            "sampled": self.sampled_contexts,
            "random": silent,
            "hard_negative": silent,
        }


class CompareConfig(Settings):
    """How autoencoders are compared."""

    keep: float = Field(
        default=0.99,
        gt=0,
        le=1,
        description="the best is chosen of the sparsest that keep this share of the greatest CE recovered of all",
        json_schema_extra=DASHBOARD,
    )
    title: str = Field(
        default="Comparison",
        min_length=1,
        max_length=200,
        description="heading of the page",
        json_schema_extra=DASHBOARD,
    )
