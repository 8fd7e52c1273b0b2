"""What work is estimated before anything is loaded: the sizes that decide how much memory it takes.

What is not given is what the steps themselves would choose for the model.
"""

from pydantic import Field

from mistudio.activations.config import CaptureConfig
from mistudio.explain.config import ExplainConfig
from mistudio.find.config import FindConfig
from mistudio.score.config import ScoreConfig
from mistudio.settings import COMMAND, CONTEXT, Settings
from mistudio.train.config import TrainConfig


class MemoryConfig(Settings):
    """The sizes of the work, by the names that people know from the steps."""

    layer: int | None = Field(
        default=None, ge=0, description="block that is hooked, from 0; None: the middle one", json_schema_extra=COMMAND
    )
    context_length: int | None = Field(
        default=None,
        ge=1,
        description="tokens of a sequence; None: as the model takes, at most 512",
        json_schema_extra=COMMAND,
    )
    batch_size: int = Field(
        default=CaptureConfig.model_fields["batch_size"].default,
        ge=1,
        description="sequences of a forward pass",
        json_schema_extra=COMMAND,
    )
    width: int | None = Field(
        default=None,
        ge=1,
        description="features of the autoencoder; None: eight times the model's width, 1,024 to 32,768",
        json_schema_extra=COMMAND,
    )
    architecture: str = Field(
        default="topk", description="kind of autoencoder, as of mistudio train", json_schema_extra=COMMAND
    )
    target_l0: float | None = Field(
        default=None,
        gt=0,
        description="features a token that a penalty is steered to; None: none, and a penalised one begins dense",
        json_schema_extra=COMMAND,
    )
    active: float | None = Field(
        default=None,
        gt=0,
        description="features a token of one that is trained; None: the target, or a quarter of the width, 8 to 64",
        json_schema_extra=COMMAND,
    )
    sae_batch_size: int = Field(
        default=TrainConfig.model_fields["batch_size"].default,
        ge=1,
        description="activations of one training step",
        json_schema_extra=COMMAND,
    )
    buffer_rows: int = Field(
        default=TrainConfig.model_fields["buffer_rows"].default,
        ge=1,
        description="activations in the shuffling buffer",
        json_schema_extra=COMMAND,
    )
    find: FindConfig = Field(default=FindConfig(), json_schema_extra=CONTEXT)
    explain: ExplainConfig = Field(
        default=ExplainConfig(), description="of its explainers only programs are counted", json_schema_extra=CONTEXT
    )
    score: ScoreConfig = Field(
        default=ScoreConfig(), description="of its scorers only programs are counted", json_schema_extra=CONTEXT
    )
