"""What a sparse autoencoder is made of: one frozen model for each architecture.

The ranges are those of the training service that this project grew from: a dictionary of 64 to 32,768
latents unless a wider one is asked for, and an L1 coefficient above 0 and at most 1.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_WIDTH = 64
MAX_WIDTH = 32_768


class _Architecture(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    width: int = Field(description="number of latents (features) of the dictionary")
    allow_wide: bool = Field(default=False, description=f"accept a width above {MAX_WIDTH:,}")

    @model_validator(mode="after")
    def _width_in_range(self) -> Self:
        if self.width < MIN_WIDTH:
            message = f"width {self.width} is too small: a dictionary needs at least {MIN_WIDTH} latents"
            raise ValueError(message)
        if self.width > MAX_WIDTH and not self.allow_wide:
            message = (
                f"width {self.width:,} is above {MAX_WIDTH:,}, where memory becomes the limit: "
                "check it with mistudio check-memory, then set allow_wide"
            )
            raise ValueError(message)
        return self


class TopKConfig(_Architecture):
    """TopK autoencoder (Gao et al. 2024, arXiv:2406.04093)."""

    architecture: Literal["topk"] = "topk"
    k: int = Field(description="active latents a token")
    aux_k: int | None = Field(default=None, ge=1, description="dead latents in the auxiliary loss; default: half of D")
    aux_coefficient: float = Field(default=1 / 32, ge=0, description="weight of the auxiliary loss")

    @model_validator(mode="after")
    def _k_in_range(self) -> Self:
        if self.k < 1:
            message = f"k {self.k} leaves no latent active: use at least 1"
            raise ValueError(message)
        if self.k > self.width:
            message = f"k {self.k} is larger than width {self.width}: lower k or raise width"
            raise ValueError(message)
        return self


class StandardConfig(_Architecture):
    """ReLU autoencoder with an L1 penalty (Bricken et al. 2023, Towards Monosemanticity)."""

    architecture: Literal["standard"] = "standard"
    l1_coefficient: float = Field(
        default=0.02, description="weight of the L1 norm, which counts in units of the activations' spread"
    )
    l1_warmup_fraction: float = Field(
        default=0.1, ge=0, le=1, description="share of training to ramp the L1 weight up in"
    )
    encoder_bias: float = Field(default=-0.1, le=0, description="initial bias of every latent, in units of the spread")

    @model_validator(mode="after")
    def _penalty_in_range(self) -> Self:
        if self.l1_coefficient <= 0:
            message = f"l1_coefficient {self.l1_coefficient:g} must be above 0: without it nothing keeps latents sparse"
            raise ValueError(message)
        if self.l1_coefficient > 1:
            message = (
                f"l1_coefficient {self.l1_coefficient:g} must be at most 1: above it the penalty outweighs the "
                "reconstruction, and every latent dies"
            )
            raise ValueError(message)
        return self


SAEConfig = Annotated[TopKConfig | StandardConfig, Field(discriminator="architecture")]
