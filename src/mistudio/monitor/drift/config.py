"""Settings of the tests of drift."""

from typing import Literal

from pydantic import Field

from mistudio.settings import Settings

GroupBy = Literal["model", "endpoint", "namespace", "tenant"]


class DriftConfig(Settings):
    """How often a false alarm may come, what is too small to tell, and which traffic is one stream.

    The rate of false alarms is one for all watched features and columns together, per text, however many streams
    there are: in any number N of texts before a change, no more than N / ``texts_per_false_alarm`` false alarms are
    to be expected. It is no promise that none ever comes: a test that watches for years would lose all power by that.
    """

    texts_per_false_alarm: float = Field(
        1e7, ge=100, le=1e15, description="texts in which one false alarm is to be expected at most, over all features"
    )
    tolerance: float = Field(
        1.5, ge=1, le=1e3, description="change of the odds of firing, as a ratio, that is too small to be told"
    )
    texts_per_small_change: float = Field(
        1e5, ge=1, le=1e15, description="texts in which a feature tells of a change below the tolerance once at most"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals of rates, which hold at every moment")
    group_by: tuple[GroupBy, ...] = Field(
        ("model", "endpoint"), description="what makes traffic a stream of its own: model, endpoint, namespace, tenant"
    )
    most_groups: int = Field(
        16, ge=1, le=1024, description="streams that are followed; texts of further ones are counted and left out"
    )
    primary: str | None = Field(
        "predictor",
        description="endpoint that the other endpoints of its model are compared with too; None: with none",
    )
    repeat_likeness: float | None = Field(
        0.8,
        gt=0,
        le=1,
        description="a text in which so large a share of the same fires as in one of the last repeats that one and is "
        "not counted; None: all are counted",
    )
    recent_texts: int = Field(64, ge=1, le=4096, description="texts of a stream that repeats are looked for among")
    gather_texts: int = Field(
        64,
        ge=1,
        le=1 << 20,
        description="texts of a stream after an alert in which nothing more is told: what changes meanwhile comes as "
        "one alert behind them",
    )
    sweep_texts: int = Field(
        64, ge=1, le=1 << 20, description="texts of a stream after which features that fell silent are looked at"
    )
