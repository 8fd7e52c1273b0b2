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
    Metric(
        "explained_variance_by_token",
        "Explained variance, by token",
        "mean over tokens of the variance explained, as SAEBench defines it",
    ),
    Metric("fvu", "FVU", "fraction of variance unexplained"),
    Metric("mse", "MSE", "mean squared error over tokens and dimensions"),
    Metric("l0", "L0", "features active on a token, on average"),
    Metric("l1", "L1", "sum of feature activations on a token, on average"),
    Metric("cosine", "Cosine", "cosine of activation and reconstruction, on average"),
    Metric("l2_ratio", "L2 ratio", "length of the reconstruction over that of the activation, on average"),
    Metric("relative_bias", "Relative bias", "below 1, reconstructions are too short; above 1, too long"),
    Metric("dead_fraction", "Silent features", "fraction of features that did not fire on the held-out tokens"),
    Metric("dense_fraction", "Dense features", "fraction of features that fire on more than a tenth of the tokens"),
    Metric("redundancy_mean", "Redundancy", "largest cosine of a feature's direction with any other, on average"),
    Metric("ce_clean", "CE clean", "next-token cross-entropy of the untouched model, nats"),
    Metric("ce_spliced", "CE spliced", "cross-entropy with the reconstruction in place of the activation, nats"),
    Metric("ce_zero", "CE zero", "cross-entropy with the activation set to zero, nats"),
    Metric("ce_recovered", "CE recovered", "(CE zero − CE spliced) / (CE zero − CE clean); 1 is no loss"),
    Metric("ce_recovered_half_width", "CE recovered, ±", "half of its 95% interval over documents"),
    Metric("kl", "KL", "divergence of the spliced from the clean next-token distribution, nats"),
    Metric("kl_zero", "KL zero", "divergence with the activation set to zero, nats"),
    Metric("kl_recovered", "KL recovered", "1 − KL / KL zero; 1 is no loss"),
    Metric("control.random_explained_variance", "Explained variance, random", "of a random autoencoder"),
    Metric("control.random_cosine", "Cosine, random", "of a random autoencoder of the same width and sparsity"),
    Metric("control.random_ce_recovered", "CE recovered, random", "of a random autoencoder"),
    Metric("control.random_kl_recovered", "KL recovered, random", "of a random autoencoder"),
    Metric("ce_tokens", "Tokens in the model", "held-out tokens that were run with the reconstruction spliced in"),
    Metric("tokens", "Evaluated tokens", "held-out tokens that the figures were measured on"),
)

# What outliers do to the figures: those beyond the autoencoder's norm limit, or, without one, those that training
# leaves out by default. Each is there where it was measured.
FILTERED_METRICS = (
    Metric("explained_variance_all", "Explained variance, all tokens", "with the tokens that training left out"),
    Metric(
        "explained_variance_without_outliers",
        "Explained variance, without outliers",
        "over the tokens that training would keep by default; this autoencoder has no limit",
    ),
    Metric("outlier_tokens", "Outliers", "held-out tokens that training leaves out by default; in all other figures"),
    Metric("outlier_fraction", "Share of outliers", "of the held-out tokens"),
    Metric("filtered_tokens", "Tokens left out", "held-out tokens too far from the others, as in training"),
    Metric("filtered_fraction", "Share left out", "of the held-out tokens"),
    Metric("ce_filtered_tokens", "Tokens left out, in the model", "their activations stay as they are"),
)

# Of these, what is compared between autoencoders and shown beside the explained variance.
OUTLIER_FIGURES = tuple(metric.key for metric in FILTERED_METRICS if not metric.key.endswith("tokens"))


def about_outliers(metrics: Metrics) -> str:
    """The explained variance with outliers, or without, and their share, for people; empty where there are none."""
    filtered, outliers = metrics.get("filtered_fraction"), metrics.get("outlier_fraction")
    if filtered:
        everywhere = write_metric("explained_variance", metrics["explained_variance_all"])
        return f"{everywhere} over all tokens; {_percent(filtered)} of them are outliers, left out"
    if outliers:
        without = write_metric("explained_variance", metrics["explained_variance_without_outliers"])
        return f"{without} without outliers, {_percent(outliers)} of the tokens"
    return ""


def shown_metrics(metrics: Metrics) -> list[Metric]:
    """What a table of all figures lists: of the outliers no more than that there are none, where that is so."""
    outliers = [metric for metric in FILTERED_METRICS if metric.key in metrics]
    if not about_outliers(metrics):
        outliers = [metric for metric in outliers if metric.key in {"filtered_tokens", "outlier_tokens"}]
    return [*METRICS, *outliers]


def read_metrics(evaluation: Artifact) -> dict[str, float | None]:
    """All figures of :data:`METRICS`, None where one was not measured, and what there is of the filtered ones.

    Raises:
        DamagedArtifact: ``metrics.json`` is not what was published.
    """
    raw = json.loads(evaluation.file("metrics.json").read_text(encoding="utf-8"))
    metrics = [*METRICS, *(metric for metric in FILTERED_METRICS if metric.key in raw)]
    return {metric.key: finite(raw.get(metric.key)) for metric in metrics}


def write_metric(key: str, value: float | None) -> str:
    """A figure as people read it."""
    if value is None:
        return MISSING
    if key.endswith("tokens"):
        return f"{int(value):,}"
    if key in {"dead_fraction", "dense_fraction", "filtered_fraction", "outlier_fraction"}:
        return _percent(value)
    return f"{value:.3g}" if key in {"l0", "l1"} and value >= 1 else f"{value:.3f}"


def write_left_out(metrics: Metrics) -> str:
    """What was left out of the figures for being beyond the norm limit, and what it changes; empty where nothing is."""
    left_out = metrics.get("filtered_tokens")
    if not left_out:
        return ""
    count, share = (write_metric(name, metrics.get(name)) for name in ("filtered_tokens", "filtered_fraction"))
    text = (
        f"{count} held-out tokens ({share}) lie beyond the norm limit of the autoencoder. Their activations are so "
        "long that they would decide every figure, so they are left out here, as they were in training."
    )
    both = [metrics.get(name) for name in ("explained_variance", "explained_variance_all")]
    if None in both:
        return text
    without, whole = (write_metric("explained_variance", value) for value in both)
    return f"{text} Explained variance is {without} without them and {whole} with them."


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


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


def rounded(value: float | None) -> float | None:
    """Four significant digits, which is more than anyone reads off a page."""
    return None if finite(value) is None else float(f"{value:.4g}")
