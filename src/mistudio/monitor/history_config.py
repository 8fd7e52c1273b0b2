"""Settings of what is kept of traffic."""

from pydantic import Field

from mistudio.settings import Settings


class HistoryConfig(Settings):
    """How much is kept, and for how long."""

    retention_s: float = Field(30 * 86_400.0, gt=0, description="seconds of traffic after which it is dropped")
    max_rows: int = Field(1_000_000, ge=1, description="samples that are kept; the oldest are dropped first")
    max_bytes: int = Field(1 << 30, ge=1 << 20, description="bytes of the database; the oldest are dropped first")
    max_alerts: int = Field(100_000, ge=1, description="alerts that are kept; the oldest are dropped first")
    top_features: int = Field(32, ge=0, le=4096, description="features of a sample that are kept, the strongest first")
    keep_text: bool = Field(False, description="keep the tokens of samples, where the watch gives them")
    redact_patterns: tuple[str, ...] = Field(
        (), max_length=256, description="regular expressions of what is taken out of a text before it is kept"
    )
