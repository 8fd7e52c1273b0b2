"""Plots to log beside a run.

matplotlib comes with the ``tracking`` extra, so it is imported where it is used. Figures are made as
objects, without pyplot: its global state leaks figures in a long-lived process and is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_BAR = "#4c6a92"
_BARS = {"ce_clean": "#5a8f69", "ce_spliced": _BAR, "ce_zero": "#b5655b"}
_PROBED = {
    "sae": ("autoencoder", _BAR),
    "random": ("random autoencoder", "#b9bec7"),
    "shuffled": ("shuffled", "#b5655b"),
}
_LABELS = {"ce_clean": "clean", "ce_spliced": "spliced", "ce_zero": "zero ablation"}
_OUTLINES = (_BAR, "#5a8f69", "#b5655b", "#8a6bb1", "#b08d3e", "#6b7280")
_BINS = 60
_SCORE_BINS = 25
_MOST_RECALLS = 30  # watched columns in a plot
_COSINES = (-1.0, 1.0)
_MAX_COLUMNS = 3


def density_figure(densities: ArrayLike) -> Figure:
    """Features by log10 of the fraction of tokens they fire on; dead ones are counted in the title."""
    density_F = np.asarray(densities, dtype=np.float64)
    alive = density_F[density_F > 0]
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    if len(alive):
        axes.hist(np.log10(alive), bins=_BINS, color=_BAR)
    axes.set_xlabel("log10 density (fraction of tokens)")
    axes.set_ylabel("features")
    axes.set_title(f"{len(density_F):,} features, {len(density_F) - len(alive):,} never fired", fontsize=10)
    return figure


def training_figure(steps: Sequence[int], metrics: Mapping[str, Sequence[float]]) -> Figure:
    """One small panel a metric, over training steps."""
    columns = max(1, min(_MAX_COLUMNS, len(metrics)))
    rows = max(1, -(-len(metrics) // columns))
    figure = _figure(3.4 * columns, 2.6 * rows)
    for place, (name, values) in enumerate(metrics.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(steps, values, color=_BAR, linewidth=1.2)
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
    return figure


def ce_figure(metrics: Mapping[str, float | None]) -> Figure:
    """Cross-entropy, in nats a token: clean, with the reconstruction spliced in, and with zeros instead."""
    measured = {key: value for key in _BARS if (value := metrics.get(key)) is not None}
    figure = _figure(4.8, 3.2)
    axes = figure.add_subplot()
    bars = axes.bar(
        [_LABELS[key] for key in measured], list(measured.values()), color=[_BARS[key] for key in measured], width=0.6
    )
    axes.bar_label(bars, fmt="%.3f", padding=2)
    axes.margins(y=0.12)
    axes.set_ylabel("cross-entropy (nats a token)")
    recovered = metrics.get("ce_recovered")
    if recovered is not None:
        half_width = metrics.get("ce_recovered_half_width")
        known = "" if half_width is None else f" ± {half_width:.3f}"
        axes.set_title(f"CE recovered {recovered:.3f}{known}", fontsize=10)
    return figure


def redundancy_figure(max_cosines: ArrayLike) -> Figure:
    """Features by the largest cosine of their direction with any other feature's."""
    return _cosine_figure(max_cosines, "largest cosine with another feature")


def stability_figure(cosines: ArrayLike, random_cosines: ArrayLike) -> Figure:
    """Features by the cosine with their match in another autoencoder, and in a random one."""
    figure = _cosine_figure(cosines, "cosine with the matched feature", "autoencoders")
    (axes,) = figure.axes
    axes.hist(np.asarray(random_cosines), bins=_BINS, range=_COSINES, color=_BARS["ce_zero"], alpha=0.6, label="random")
    axes.legend(frameon=False, fontsize=9)
    return figure


def probing_figure(averages: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """One group of bars for each number of latents, with 95% intervals; the dense probe as a line across.

    ``averages`` are entries with representation, k, metric, value, low and high.
    """
    chosen = [entry for entry in averages if entry["metric"] == metric]
    ks = sorted({int(entry["k"]) for entry in chosen} - {0})
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    width = 0.8 / len(_PROBED)
    for number, (representation, (label, colour)) in enumerate(_PROBED.items()):
        bars = {int(entry["k"]): entry for entry in chosen if entry["representation"] == representation}
        places = [ks.index(k) + (number - 1) * width for k in bars]
        values = np.array([entry["value"] for entry in bars.values()])
        ends = np.array([[value - e["low"], e["high"] - value] for value, e in zip(values, bars.values(), strict=True)])
        axes.bar(places, values, width, label=label, color=colour, yerr=ends.clip(min=0).T, capsize=2)
    for entry in (entry for entry in chosen if entry["representation"] == "dense"):
        axes.axhspan(entry["low"], entry["high"], color=_BARS["ce_clean"], alpha=0.2)
        axes.axhline(entry["value"], color=_BARS["ce_clean"], label="dense probe")
    axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set_xlabel("latents")
    axes.set_ylabel(metric.replace("_", " "))
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    return figure


def scores_figure(scores: Mapping[str, ArrayLike], metric: str) -> Figure:
    """Features by the score of their explanation, one outline for each name; NaN is counted in the legend."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    for (name, values), colour in zip(scores.items(), cycle(_OUTLINES)):  # noqa: B905 -- colours start over
        value_F = np.asarray(values, dtype=np.float64)
        defined = value_F[~np.isnan(value_F)]
        missing = f", {len(value_F) - len(defined):,} without" if len(defined) < len(value_F) else ""
        label = f"{name}: {len(defined):,}{missing}"
        axes.hist(
            defined, bins=_SCORE_BINS, range=(min([0.0, *defined]), 1), histtype="step", color=colour, label=label
        )
    axes.set_xlabel(f"{metric.replace('_', ' ')} on held-out documents")
    axes.set_ylabel("features")
    axes.legend(frameon=False, fontsize=8, loc="upper center")
    return figure


def dose_response_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How often the concept is there, and how perplexity and repetition change, by strength; of one feature.

    ``rows`` are those of the table of what was tried; strengths for use are shaded.
    """
    swept = [row for row in rows if row["method"] == "feature"]
    strengths = [row["strength"] for row in swept]
    usable = [row["strength"] for row in swept if row["in_range"]]
    figure = _figure(6.4, 5.2)
    above, below = figure.subplots(2, 1, sharex=True)
    above.fill_between(strengths, *(_rates(swept, end) for end in ("_low", "_high")), color=_BAR, alpha=0.2)
    above.plot(strengths, _rates(swept), color=_BAR, marker="o", markersize=3)
    above.set_ylim(-0.02, 1.02)
    above.set_ylabel("texts with the concept")
    below.plot(strengths, [row["perplexity_ratio"] for row in swept], color=_BARS["ce_zero"], marker="o", markersize=3)
    below.axhline(1, color="#b9bec7", linewidth=1)
    below.set_yscale("log")
    below.set_ylabel("perplexity × unsteered")
    below.set_xlabel("strength (× the feature's largest activation)")
    for axes in (above, below):
        axes.axvspan(min(usable, default=0), max(usable, default=0), color=_BARS["ce_clean"], alpha=0.12)
        axes.grid(alpha=0.25)
    return figure


def push_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """How often the concept is there by how far predictions are moved: one feature at its strengths, and controls."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    swept = sorted((r for r in rows if r["method"] == "feature" and r["strength"] >= 0), key=lambda r: r["kl"])
    axes.plot([row["kl"] for row in swept], _rates(swept), color=_BAR, marker="o", markersize=3, label="feature")
    others = [row for row in rows if row["method"] != "feature" and row["kl"] is not None]
    for row, colour in zip(others, cycle(_OUTLINES[1:])):  # noqa: B905 -- colours start over
        axes.plot(
            row["kl"], *_rates([row]), color=colour, marker="s", linestyle="", label=row["method"].replace("_", " ")
        )
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set_xlabel("KL from the model's predictions (nats a token)")
    axes.set_ylabel("texts with the concept")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False, fontsize=8)
    return figure


def recall_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """What watched columns find of positive texts at their rate of false positives, beside what they are compared with.

    ``rows`` are those of a calibration's table that have a recall; the best watched ones are drawn.
    """
    watched = sorted((row for row in rows if row["kind"] == "watched"), key=lambda row: -row["recall"])[:_MOST_RECALLS]
    shown = [*watched, *(row for row in rows if row["kind"] != "watched")][::-1]
    figure = _figure(6.4, 1.2 + 0.24 * len(shown))
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        colour = _BAR if row["kind"] == "watched" else _BARS["ce_zero"]
        axes.plot([row["recall_low"], row["recall_high"]], [place, place], color=colour, linewidth=1)
        axes.plot(row["recall"], place, color=colour, marker="o", markersize=4)
    axes.set_yticks(range(len(shown)), [row["name"] for row in shown], fontsize=7)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"recall at {shown[0]['rate']:g} false positives a {shown[0]['per']}")
    axes.grid(alpha=0.25, axis="x")
    return figure


def _rates(rows: Sequence[Mapping[str, Any]], end: str = "") -> list[float]:
    """Shares of texts with the concept, by the labels where there are some."""
    return [row["active" + end] if row["labelled"] is None else row["labelled" + end] for row in rows]


def _cosine_figure(cosines: ArrayLike, what: str, label: str = "") -> Figure:
    cosine_F = np.asarray(cosines, dtype=np.float64)
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    axes.hist(cosine_F, bins=_BINS, range=_COSINES, color=_BAR, label=label)
    axes.set_xlabel(what)
    axes.set_ylabel("features")
    axes.set_title(f"{len(cosine_F):,} features, mean {cosine_F.mean():.3f}", fontsize=10)
    return figure


def _figure(width_inches: float, height_inches: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=120, layout="constrained")
