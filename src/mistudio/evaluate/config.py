"""How much to measure, and on what: evaluation, stability over seeds, and probing."""

from typing import Literal

from pydantic import Field, PositiveInt

from mistudio.settings import COMMAND, DASHBOARD, Settings

Labels = Literal["auto", "label", "task"]
Pool = Literal["mean", "max"]


class EvaluateConfig(Settings):
    """How much to evaluate on."""

    max_tokens: int | None = Field(default=None, ge=1, description="most held-out activations (tokens); default: all")
    ce_tokens: int = Field(
        default=100_000,
        ge=1,
        description="about how many held-out tokens run through the model at most",
        json_schema_extra=DASHBOARD,
    )
    ce_half_width: float = Field(
        default=0.005,
        ge=0,
        lt=1,
        description="half of the 95% interval of CE recovered at which no more tokens are run; 0: run all",
        json_schema_extra=COMMAND,
    )
    dense_above: float = Field(
        default=0.1, gt=0, lt=1, description="a latent that fires on more than this share of the tokens is dense"
    )
    control: bool = Field(default=True, description="measure a random autoencoder of the same shape too")


class StabilityConfig(Settings):
    """How dictionaries are compared."""

    found_above: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="a latent is found again where the cosine with its match is above this",
        json_schema_extra=DASHBOARD,
    )
    exact_width: int = Field(
        default=8192,
        ge=1,
        description="most latents for which the best matching is found, with 8 bytes of memory a pair of latents; "
        "above, only each latent's 32 nearest are considered",
        json_schema_extra=DASHBOARD,
    )


class ProbeConfig(Settings):
    """What is probed for, and on how many documents."""

    labels: Labels = Field(
        default="auto",
        description="what a document is an example of: its label, its task, or its label if it has one",
        json_schema_extra=DASHBOARD,
    )
    pool: Pool = Field(
        default="mean", description="how the tokens of a document become one vector", json_schema_extra=DASHBOARD
    )
    ks: tuple[PositiveInt, ...] = Field(
        default=(1, 2, 5, 16), min_length=1, description="numbers of latents to probe on"
    )
    max_documents: int = Field(
        default=4000, ge=2, description="documents of each split to encode at most", json_schema_extra=DASHBOARD
    )
    max_sequences: int = Field(
        default=4, ge=1, description="sequences of a document to read, from its start", json_schema_extra=COMMAND
    )
    min_documents: int = Field(
        default=20,
        ge=2,
        description="documents that a label needs in each split, or else it is left out",
        json_schema_extra=COMMAND,
    )
    max_classes: int = Field(default=20, ge=2, description="labels of a task to tell apart at most, the most frequent")
    batch_size: int = Field(
        default=32, ge=1, le=128, description="sequences of full length in one forward pass", json_schema_extra=COMMAND
    )
    shuffles: int = Field(default=20, ge=2, description="times the training labels are shuffled for the control")
    resamples: int = Field(default=1000, ge=20, description="bootstrap resamples of the held-out documents")
