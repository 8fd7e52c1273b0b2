"""How a sparse autoencoder is trained."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from mistudio.activations.config import OUTLIER_RATIO
from mistudio.errors import ConfigError
from mistudio.sae import Parallel, SAEConfig, built_in_configs
from mistudio.settings import COMMAND, CONTEXT, DASHBOARD, Settings
from mistudio.subject import SubjectConfig

TRAINING_NAME = "training.json"  # the metrics of a training, as it was reported
ARCHITECTURES = ",".join(built_in_configs())  # those of a sweep, unless it names others

_SHARED = ("hook", "target_hook", "batch_size", "buffer_rows")  # settings of the stream


class TrainConfig(Settings):
    """One training run: the autoencoder, how many tokens it sees, and the optimiser."""

    hook: str = Field(description="hook point to train on, for example resid_post.3", json_schema_extra=DASHBOARD)
    target_hook: str | None = Field(
        default=None,
        description="hook point that a transcoder predicts, captured with the other; None: autoencoder",
        json_schema_extra=DASHBOARD,
    )
    sae: SAEConfig
    tokens: int = Field(
        default=3_000_000,
        ge=1,
        description="activations (tokens) to train on; repeats the data if need be",
        json_schema_extra=DASHBOARD,
    )
    max_epochs: int = Field(
        default=50, ge=1, description="most passes over the captured activations", json_schema_extra=COMMAND
    )
    batch_size: int = Field(
        default=512, ge=16, le=1 << 17, description="activations (tokens) in one step", json_schema_extra=COMMAND
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="peak learning rate of Adam; None: 0.125 / sqrt(width)",
        json_schema_extra=DASHBOARD,
    )
    decoder_rate_ratio: float = Field(
        default=3.0, gt=0, le=100, description="learning rate of the decoder's directions, as a multiple of the others'"
    )
    adam_beta2: float = Field(
        default=0.99, ge=0, lt=1, description="decay of Adam's mean of squared gradients, which are largest at first"
    )
    normalisation: Literal["none", "unit_mean_square", "centred"] = Field(
        default="centred",
        description="as they are, divided by their root mean square, or centred and divided by the standard deviation",
        json_schema_extra=COMMAND,
    )
    decoder_bias: Literal["mean", "geometric_median"] = Field(
        default="mean", description="where the decoder's bias starts: at this centre of a sample of the targets"
    )
    max_norm_ratio: float | None = Field(
        default=OUTLIER_RATIO,
        gt=1,
        description="leave out tokens farther from the middle than so many times the median, here and in all that "
        "follows; None: none",
        json_schema_extra=COMMAND,
    )
    encoder_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the encoder product; weights and their updates are float32 throughout",
        json_schema_extra=COMMAND,
    )
    micro_batches: int = Field(default=1, ge=1, description="parts of a batch whose gradients are accumulated")
    ema_decay: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the running mean of the weights that is published; 0: the last"
    )
    decay: Literal["linear", "cosine"] = Field(default="linear", description="how the learning rate falls at the end")
    warmup_fraction: float = Field(
        default=0.02, ge=0, le=0.5, description="share of training with rising learning rate"
    )
    decay_fraction: float = Field(
        default=0.4, ge=0, le=1, description="share of training with falling learning rate, at its end"
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    dead_after_tokens: int = Field(
        default=200_000, ge=1, description="a latent silent for as many tokens counts as dead"
    )
    buffer_rows: int = Field(default=262_144, ge=1, description="activations (rows) in the shuffling buffer")
    check_every_steps: int = Field(default=50, ge=1, description="steps between two checks for early stopping")
    patience: int = Field(
        default=10,
        ge=0,
        description="checks without improvement until the final decay starts; 0: never",
        json_schema_extra=COMMAND,
    )
    min_loss: float = Field(
        default=0.0,
        ge=0,
        description="mean loss (without auxiliary losses) at which the final decay starts; 0: never",
        json_schema_extra=COMMAND,
    )

    @model_validator(mode="after")
    def _batch_can_be_cut(self) -> Self:
        if self.micro_batches > self.batch_size:
            message = f"micro_batches {self.micro_batches} is more than batch_size {self.batch_size}: lower it"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _skip_fits(self) -> Self:
        if self.target_hook == self.hook:
            message = f"target_hook {self.target_hook} is the hook itself: leave it out for an autoencoder"
            raise ValueError(message)
        if self.sae.skip == "linear" and self.target_hook is None:
            message = "skip linear would let an autoencoder copy its input: give a target_hook, or use skip scale"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.warmup_fraction + self.decay_fraction > 1:
            message = (
                f"warmup_fraction {self.warmup_fraction} and decay_fraction {self.decay_fraction} "
                "together are more than the whole of training"
            )
            raise ValueError(message)
        return self

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate given, or the default for this width."""
        return self.learning_rate or 0.125 / self.sae.width**0.5


class TrainRuntime(Settings):
    """What changes how training runs, but not what it ends with."""

    device: str = Field(default="cpu", json_schema_extra=CONTEXT)
    checkpoint_every_steps: int = Field(
        default=500, ge=1, description="steps between two checkpoints", json_schema_extra=COMMAND
    )
    parallel: Parallel = Field(
        default="data",
        description="what several processes share: the tokens of each batch, or the latents",
        json_schema_extra=COMMAND,
    )
    subject: SubjectConfig = Field(
        default=SubjectConfig(),
        description="how to load the model that activations come from live, but for its device",
        json_schema_extra=CONTEXT,
    )


class ManyConfig(Settings):
    """Many autoencoders: every architecture with every width and sparsity."""

    architectures: str = Field(
        default=ARCHITECTURES, description="kinds of autoencoder, with commas between them", json_schema_extra=DASHBOARD
    )
    widths: str = Field(
        default="",
        description="numbers of features, with commas; empty: eight times the activations' width, 1,024 to 32,768",
        json_schema_extra=DASHBOARD,
    )
    sparsities: str = Field(
        default="8,16,32,64",
        description="active features a token, with commas: k, or the target L0 of architectures that have no k",
        json_schema_extra=DASHBOARD,
    )


class GridConfig(ManyConfig):
    """The autoencoders of a sweep, each with every seed."""

    seeds: str = Field(
        default="0", description="seeds to train each one with, with commas", json_schema_extra=DASHBOARD
    )


class TogetherConfig(ManyConfig):
    """The autoencoders that learn from one stream."""

    sparsities: str = Field(
        default="32",
        description=ManyConfig.model_fields["sparsities"].description,
        json_schema_extra=DASHBOARD,
    )
    tokens: int = Field(
        default=TrainConfig.model_fields["tokens"].default,
        ge=1,
        description="activations (tokens) to train on; repeats the captured ones if need be",
        json_schema_extra=DASHBOARD,
    )


def check_stream(configs: Sequence[TrainConfig]) -> None:
    """Refuse autoencoders that cannot learn from one stream.

    Raises:
        ConfigError: the settings of the stream differ.
    """
    for name in _SHARED:
        values = {str(getattr(config, name)): None for config in configs}
        if len(values) > 1:
            message = f"Autoencoders over one stream need the same {name}, not {', '.join(values)}. Train them apart."
            raise ConfigError(message)
