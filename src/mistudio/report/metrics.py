"""The figures of an evaluation: which there are, what they are called, and how they are written."""

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from mistudio.artifacts import Artifact

Metrics = Mapping[str, float | None]

MISSING = "–"


class Metric(NamedTuple):
    """One figure of ``metrics.json``."""

    key: str
    label: str
    hint: str


METRICS = (
    Metric("explained_variance", "Explained variance", "1 − FVU; 1 is a perfect reconstruction"),
    Metric("fvu", "FVU", "fraction of variance unexplained"),
    Metric("l0", "L0", "features active on a token, on average"),
    Metric("l1", "L1", "sum of feature activations on a token, on average"),
    Metric("cosine", "Cosine", "cosine of activation and reconstruction, on average"),
    Metric("dead_fraction", "Dead features", "fraction of features that never fired in the evaluation"),
    Metric("ce_clean", "CE clean", "next-token cross-entropy of the untouched model, nats"),
    Metric("ce_spliced", "CE spliced", "cross-entropy with the reconstruction in place of the activation, nats"),
    Metric("ce_zero", "CE zero", "cross-entropy with the activation set to zero, nats"),
    Metric("ce_recovered", "CE recovered", "(CE zero − CE spliced) / (CE zero − CE clean); 1 is no loss"),
    Metric("kl", "KL", "divergence of the spliced from the clean next-token distribution, nats"),
    Metric("tokens", "Evaluated tokens", "held-out tokens that the figures were measured on"),
)


def read_metrics(evaluation: Artifact) -> dict[str, float | None]:
    """All figures of :data:`METRICS`; None where one was not measured.

    Raises:
        DamagedArtifact: ``metrics.json`` is not what was published.
    """
    raw = json.loads(evaluation.file("metrics.json").read_text(encoding="utf-8"))
    return {metric.key: finite(raw.get(metric.key)) for metric in METRICS}


def write_metric(key: str, value: float | None) -> str:
    """A figure as people read it."""
    if value is None:
        return MISSING
    if key == "tokens":
        return f"{int(value):,}"
    if key == "dead_fraction":
        return f"{100 * value:.3g}%"
    return f"{value:.3g}" if key in {"l0", "l1"} and value >= 1 else f"{value:.3f}"


def write_value(value: object) -> str:
    """Any scalar of a config or a summary as people read it."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def finite(value: float | None) -> float | None:
    """The value, or None where it is NaN or infinite: JSON has neither."""
    return value if value is not None and math.isfinite(value) else None
