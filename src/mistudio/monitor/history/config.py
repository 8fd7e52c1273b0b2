"""Settings of what is kept of traffic."""

import re

from pydantic import Field, field_validator

from mistudio.plain_text import shortened
from mistudio.settings import Settings


class HistoryConfig(Settings):
    """How much is kept, and for how long."""

    retention_s: float = Field(
        30 * 86_400.0, gt=0, description="age in seconds at which samples and alerts are dropped"
    )
    max_rows: int = Field(1_000_000, ge=1, description="samples that are kept; the oldest are dropped first")
    max_bytes: int = Field(1 << 30, ge=1 << 20, description="bytes of the database; the oldest are dropped first")
    max_alerts: int = Field(100_000, ge=1, description="alerts that are kept; the oldest are dropped first")
    top_features: int = Field(32, ge=0, le=4096, description="features of a sample that are kept, the strongest first")
    keep_text: bool = Field(False, description="keep the text of samples, where the watch gives its tokens")
    text_characters: int = Field(65_536, ge=1, le=1 << 24, description="characters of a text that are kept")
    redact_patterns: tuple[str, ...] = Field(
        (), max_length=256, description="regular expressions of what is taken out of a text before it is kept"
    )

    @field_validator("redact_patterns")
    @classmethod
    def _are_expressions(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                message = f"redact_patterns: {shortened(pattern)} is no regular expression: {error}"
                raise ValueError(message) from error
        return patterns
