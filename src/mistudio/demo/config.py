"""What determines the demo subject's bytes, beside its seed and the corpus."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mistudio.errors import ConfigError


class DemoConfig(BaseModel):
    """Shape, budget and optimisation of the demo subject. The defaults take about two minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="demo", min_length=1, description="what people see the model called")
    tokens: int = Field(default=1_950_000, ge=1_000, description="tokens to train on; the corpus repeats if need be")
    vocab_size: int = Field(default=6_144, ge=300, le=65_536, description="entries of the byte-level BPE vocabulary")
    width: int = Field(default=128, ge=16, le=1_024, description="size of the residual stream")
    layers: int = Field(default=4, ge=1, le=24, description="number of transformer blocks")
    heads: int = Field(default=4, ge=1, le=64, description="attention heads of a block; divides width")
    mlp_width: int = Field(default=384, ge=16, le=8_192, description="hidden size of a block's MLP")
    context_length: int = Field(default=128, ge=16, le=2_048, description="most tokens in a sequence, with <s>")
    batch_tokens: int = Field(default=2_048, ge=64, description="most tokens in a batch, padding included")
    learning_rate: float = Field(default=0.003, gt=0, description="peak, for the matrices of the blocks")
    embedding_learning_rate: float = Field(default=0.03, gt=0, description="peak, for embeddings and norms")
    gradient_clip: float = Field(default=0.5, gt=0, description="largest norm of the gradient, of all weights together")
    warmup_fraction: float = Field(default=0.05, ge=0, le=1, description="part of the budget with rising rates")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="of the arithmetic; weights and their updates are float32 throughout"
    )
    held_out_fraction: float = Field(
        default=0.1, gt=0, le=0.5, description="fraction of the documents not trained on; as in ingest"
    )
    split_seed: int = Field(default=0, description="another seed holds out other documents; as in ingest")
    evaluated_bytes: int = Field(
        default=400_000, ge=1_000, description="bytes of held-out text to evaluate on, whole documents"
    )
    checkpoint_steps: int = Field(default=200, ge=1, description="steps from one checkpoint to the next")

    @model_validator(mode="after")
    def _check(self) -> "DemoConfig":
        if self.width % (2 * self.heads):
            message = (
                f"width {self.width} cannot be shared by {self.heads} heads: width has to be a multiple of twice "
                "the number of heads (each head rotates pairs of dimensions)."
            )
            raise ConfigError(message)
        if self.batch_tokens < self.context_length:
            message = (
                f"batch_tokens {self.batch_tokens} is less than context_length {self.context_length}: "
                "a batch has to hold one sequence."
            )
            raise ConfigError(message)
        return self
