"""Settings of reference texts for a watch list, and of what a new version of the watched model is held to."""

from typing import Literal

from pydantic import Field

from mistudio.settings import Settings


class ReferenceConfig(Settings):
    """Which texts are read, and what of them is kept."""

    split: Literal["train", "heldout"] = Field("heldout", description="of the corpus")
    max_texts: int = Field(2000, ge=40, le=1_000_000, description="sequences of the corpus, drawn at random")
    max_tokens: int = Field(
        20_000, ge=100, le=10_000_000, description="tokens whose activations are kept at each hook point, likewise"
    )


class RevalidateConfig(Settings):
    """When a column of a new version of the model is as good as that of the old one.

    Agreement is Cohen's kappa: what is above the threshold in both, beyond chance. The plain share of texts that agree
    would be high for whatever is rare.
    """

    min_correlation: float = Field(0.9, ge=0, le=1, description="of a text's old and new value")
    min_agreement: float = Field(0.8, ge=0, le=1, description="of what is above the threshold, as Cohen's kappa")
    fewest_above: int = Field(
        10, ge=1, description="judged texts on either side of the threshold; with fewer, a quantile is taken"
    )
    quantile: float = Field(0.95, gt=0, lt=1, description="share of texts below the threshold where there is none")
    ridges: tuple[float, ...] = Field(
        (1e-4, 1e-2, 1.0), min_length=1, description="strengths that are tried, over the mean variance of a component"
    )
