"""At which rate of false positives thresholds are asked for, and how that is checked."""

from typing import Literal

from pydantic import Field

from mistudio.monitor.watch.config import WatchConfig
from mistudio.settings import DASHBOARD, Settings


class CalibrateConfig(Settings):
    """How thresholds are found on reference texts, and tried on others."""

    false_positive_rate: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        description="share of reference texts, or tokens, above a threshold; for columns that ask for no other",
        json_schema_extra=DASHBOARD,
    )
    per: Literal["text", "token"] = Field(
        default="text", description="what the rate is a share of: texts, or their tokens", json_schema_extra=DASHBOARD
    )
    split: Literal["train", "heldout"] = Field(
        default="heldout", description="of a corpus: which documents", json_schema_extra=DASHBOARD
    )
    max_texts: int = Field(
        default=20_000,
        ge=20,
        le=1_000_000,
        description="reference texts at most, drawn at random",
        json_schema_extra=DASHBOARD,
    )
    threshold_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of the texts that thresholds are found on; the rest checks them"
    )
    max_fitting: int = Field(
        default=2000, ge=4, description="texts of a class at most that difference of means and probe are fitted on"
    )
    c: float = Field(default=1.0, gt=0, description="of the probe: how little it is regularised (C)")
    controls: int = Field(default=5, ge=1, le=100, description="random directions to compare with")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="of bounds and intervals")
    resamples: int = Field(default=1000, ge=100, description="of documents, for the bound of a rate per token")
    texts_at_once: int = Field(default=256, ge=1, le=100_000, description="texts that are read together")
    watch: WatchConfig = Field(default=WatchConfig(), description="how texts go through the model")
