"""What a sparse autoencoder is made of: one frozen model for each architecture.

A configuration also says what is asked of its architecture before anything is computed: where its classes are, which
settings make it sparse, how much memory it begins with. All that are built in are listed at the end.

The ranges are those of the training service that this project grew from: a dictionary of 64 to 32,768
latents unless a wider one is asked for, and an L1 coefficient above 0 and at most 1. Penalties and
thresholds count in the units of the normalised activations, so that one setting fits models of any scale.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from mistudio.settings import DASHBOARD, Settings

__all__ = [
    "ArchitectureConfig",
    "BatchTopKConfig",
    "GatedConfig",
    "JumpReLUConfig",
    "MatryoshkaConfig",
    "StandardConfig",
    "TopKConfig",
]

MIN_WIDTH = 64
MAX_WIDTH = 32_768
MAX_SKIP_SCALE = 0.9
_LONGEST_WARMUP = 0.5  # of a penalty, with a target L0

Skip = Literal["none", "scale", "learned_scale", "linear"]


class ArchitectureConfig(Settings):
    """What all architectures share; an architecture adds its own fields and a fixed ``architecture``."""

    # Of one that is built in, where its class is: with torch, which a configuration does without.
    implementation: ClassVar[str] = ""
    # The settings that make it sparse, and what a plot calls them; one that overrides others comes before them.
    sparsity: ClassVar[Mapping[str, str]] = {}
    # The one of them that is a number of active latents a token, if there is one: what a sweep sets.
    l0_setting: ClassVar[str | None] = None
    # Where training begins with about half of all latents active: what losses and gradients keep of a pre-activation.
    dense_start_bytes: ClassVar[int] = 0

    architecture: str
    width: int = Field(description="number of latents (features) of the dictionary", json_schema_extra=DASHBOARD)
    allow_wide: bool = Field(
        default=False, description=f"accept a width above {MAX_WIDTH:,}", json_schema_extra=DASHBOARD
    )
    skip: Skip = Field(
        default="none",
        description="what passes beside the latents: nothing, a share of the input (fixed or learned), or a "
        "linear map of the input (transcoders only)",
        json_schema_extra=DASHBOARD,
    )
    skip_scale: float = Field(
        default=0.1, ge=0, le=MAX_SKIP_SCALE, description="share of the input that passes beside, at first if learned"
    )

    @model_validator(mode="after")
    def _width_in_range(self) -> Self:
        if self.width < MIN_WIDTH:
            message = f"width {self.width} is too small: a dictionary needs at least {MIN_WIDTH} latents"
            raise ValueError(message)
        if self.width > MAX_WIDTH and not self.allow_wide:
            message = (
                f"width {self.width:,} is above {MAX_WIDTH:,}, where memory becomes the limit: "
                "check it with mistudio check-memory, then set allow_wide (pipelines: in train_settings)"
            )
            raise ValueError(message)
        return self


class _FixedSparsity(ArchitectureConfig):
    """Architectures that keep a given number of latents."""

    sparsity: ClassVar[Mapping[str, str]] = {"k": "k"}
    l0_setting: ClassVar[str | None] = "k"

    k: int = Field(description="active latents a token", json_schema_extra=DASHBOARD)
    aux_k: int | None = Field(
        default=None, ge=1, description="dead latents in the auxiliary loss; default: half of the activations' width"
    )
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


class _PenalisedSparsity(ArchitectureConfig):
    """Architectures that a penalty keeps sparse."""

    l0_setting: ClassVar[str | None] = "target_l0"

    penalty_warmup_fraction: float = Field(
        default=0.1, ge=0, le=1, description="share of training to ramp the penalty's weight up in"
    )
    target_l0: float | None = Field(
        default=None,
        gt=0,
        description="active latents a token that the penalty's weight is steered to; None: fixed",
        json_schema_extra=DASHBOARD,
    )

    @model_validator(mode="after")
    def _target_in_range(self) -> Self:
        if self.target_l0 is not None and self.target_l0 >= self.width:
            message = f"target_l0 {self.target_l0:g} must be below width {self.width}"
            raise ValueError(message)
        if self.target_l0 is not None and self.penalty_warmup_fraction > _LONGEST_WARMUP:
            message = (
                f"penalty_warmup_fraction {self.penalty_warmup_fraction:g} leaves too little of training to steer to "
                f"target_l0 in, which begins after it: use at most {_LONGEST_WARMUP:g}"
            )
            raise ValueError(message)
        return self


class _Resampled(_PenalisedSparsity):
    """Architectures whose dead latents start anew where reconstruction is worst."""

    revival: Literal["resample", "none"] = Field(
        default="resample", description="dead latents: directions of badly reconstructed tokens, or nothing"
    )


class TopKConfig(_FixedSparsity):
    """TopK autoencoder (Gao et al. 2024, arXiv:2406.04093)."""

    implementation: ClassVar[str] = "mistudio.sae.topk:TopKAutoencoder"

    architecture: Literal["topk"] = "topk"
    multi_k_coefficient: float = Field(
        default=0.0, ge=0, description="weight of the loss with 4 k latents, which calibrates those just below k"
    )


class BatchTopKConfig(_FixedSparsity):
    """BatchTopK autoencoder (Bussmann et al. 2024, arXiv:2412.06410): k latents a token on average."""

    implementation: ClassVar[str] = "mistudio.sae.batchtopk:BatchTopKAutoencoder"

    architecture: Literal["batchtopk"] = "batchtopk"
    threshold_rate: float = Field(
        default=0.01, gt=0, le=1, description="least weight of the newest batch in the running inference threshold"
    )


class MatryoshkaConfig(_FixedSparsity):
    """Matryoshka autoencoder (Bussmann et al. 2025, arXiv:2503.17547): nested prefixes over BatchTopK."""

    implementation: ClassVar[str] = "mistudio.sae.matryoshka:MatryoshkaAutoencoder"

    architecture: Literal["matryoshka"] = "matryoshka"
    prefixes: tuple[int, ...] = Field(
        default=(),
        description="latents in each nested dictionary, rising, the last one width; default: 1/16, 1/8, 1/4, 1/2, 1",
    )
    threshold_rate: float = Field(
        default=0.01, gt=0, le=1, description="least weight of the newest batch in the running inference threshold"
    )

    @model_validator(mode="after")
    def _prefixes_nest(self) -> Self:
        given = self.nested_widths
        if list(given) != sorted(set(given)) or given[0] < 1 or given[-1] != self.width:
            message = f"prefixes {list(given)} must rise from at least 1 and end with width {self.width}"
            raise ValueError(message)
        return self

    @property
    def nested_widths(self) -> tuple[int, ...]:
        """The prefixes given, or the default ones."""
        return self.prefixes or tuple(self.width // divisor for divisor in (16, 8, 4, 2, 1))


class StandardConfig(_PenalisedSparsity):
    """ReLU autoencoder with an L1 penalty (Bricken et al. 2023, Towards Monosemanticity)."""

    implementation: ClassVar[str] = "mistudio.sae.standard:StandardAutoencoder"
    sparsity: ClassVar[Mapping[str, str]] = {"target_l0": "target L0", "l1_coefficient": "L1"}
    dense_start_bytes: ClassVar[int] = 50

    architecture: Literal["standard"] = "standard"
    l1_coefficient: float = Field(
        default=0.02, description="weight of the L1 norm, at first if target_l0 is set", json_schema_extra=DASHBOARD
    )
    penalty: Literal["decoder_norm", "sum", "mean"] = Field(
        default="decoder_norm",
        description="L1 weighted by decoder norms; plain, beside the squared error summed over dimensions; or the "
        "mean activation over all latents. The last two hold decoder directions at unit norm",
    )
    revival: Literal["resample", "reinitialise", "ghost", "none"] = Field(
        default="resample",
        description="dead latents: directions of badly reconstructed tokens, new random ones, ghost gradients",
    )
    encoder_bias: float = Field(default=-0.1, le=0, description="initial bias of every latent, in standard deviations")

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


class GatedConfig(_Resampled):
    """Gated autoencoder (Rajamanoharan et al. 2024, arXiv:2404.16014)."""

    implementation: ClassVar[str] = "mistudio.sae.gated:GatedAutoencoder"
    sparsity: ClassVar[Mapping[str, str]] = {"target_l0": "target L0", "l1_coefficient": "L1"}
    dense_start_bytes: ClassVar[int] = 62

    architecture: Literal["gated"] = "gated"
    l1_coefficient: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="weight of the L1 norm of the gates, at first if target_l0 is set",
        json_schema_extra=DASHBOARD,
    )
    encoder_bias: float = Field(default=-0.1, le=0, description="initial bias of every gate, in standard deviations")


class JumpReLUConfig(_Resampled):
    """JumpReLU autoencoder (Rajamanoharan et al. 2024, arXiv:2407.14435)."""

    implementation: ClassVar[str] = "mistudio.sae.jumprelu:JumpReLUAutoencoder"
    sparsity: ClassVar[Mapping[str, str]] = {"target_l0": "target L0", "l0_coefficient": "L0 penalty"}
    dense_start_bytes: ClassVar[int] = 85

    architecture: Literal["jumprelu"] = "jumprelu"
    penalty: Literal["l0", "tanh"] = Field(
        default="l0", description="number of active latents, or the sum of tanh of scaled activations"
    )
    l0_coefficient: float = Field(
        default=1e-3, gt=0, le=1, description="weight of the penalty, at first if target_l0 is set"
    )
    tanh_scale: float = Field(default=4.0, gt=0, description="factor inside tanh, which makes it more like a count")
    bandwidth: float = Field(
        default=1.0, gt=0, description="width of the window in which thresholds get gradients, in standard deviations"
    )
    initial_threshold: float = Field(
        default=0.01, gt=0, description="threshold of every latent at first; with target_l0, set from data instead"
    )
    pre_activation_coefficient: float = Field(
        default=3e-6, ge=0, description="weight of the loss that draws dead latents' pre-activations up"
    )


BUILT_IN: tuple[type[ArchitectureConfig], ...] = (
    TopKConfig,
    BatchTopKConfig,
    MatryoshkaConfig,
    StandardConfig,
    GatedConfig,
    JumpReLUConfig,
)
