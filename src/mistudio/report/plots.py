"""Plots to log beside a run.

matplotlib comes with the ``tracking`` extra, so it is imported where it is used. Figures are made as
objects, without pyplot: its global state leaks figures in a long-lived process and is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

_BAR = "#4c6a92"
_BARS = {"ce_clean": "#5a8f69", "ce_spliced": _BAR, "ce_zero": "#b5655b"}
_LABELS = {"ce_clean": "clean", "ce_spliced": "spliced", "ce_zero": "zero ablation"}
_BINS = 60
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
        axes.set_title(f"CE recovered {recovered:.3f}", fontsize=10)
    return figure


def _figure(width_inches: float, height_inches: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), dpi=120, layout="constrained")
