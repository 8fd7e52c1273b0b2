"""The dashboard page: the list of features, and all that is known of each."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from numpy.typing import NDArray

from mistudio.features import FeatureSet
from mistudio.report.interpretation import Interpretation
from mistudio.report.lineage import Node, folded
from mistudio.report.metrics import METRICS, Metrics, about_outliers, write_left_out, write_metric, write_value
from mistudio.report.page import Page
from mistudio.report.records import (
    BLOCK_FEATURES,
    Counts,
    FeatureIndex,
    count_features,
    density_histogram,
    write_blocks,
)
from mistudio.report.surroundings import map_columns
from mistudio.report.worth import DIGITS, Worth, weigh
from mistudio.score.summary import INTERPRETABLE

DASHBOARD = Page(
    "dashboard.html.j2",
    "dashboard.css",
    (
        "dashboard_text.js",
        "dashboard_list.js",
        "dashboard_contexts.js",
        "dashboard_meaning.js",
        "dashboard_effects.js",
        "dashboard_overview.js",
        "dashboard_feature.js",
        "dashboard.js",
    ),
)
_LOSSES = ("ce_clean", "ce_spliced", "ce_zero", "kl", "cosine", "l1")

_dumps = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_dashboard(
    path: Path,
    *,
    features: FeatureSet,
    interpretation: Interpretation | None,
    metrics: Metrics,
    lineage: Sequence[Sequence[Node]],
    title: str,
    max_features: int | None,
    contexts_of_kind: Mapping[str, int],
    dense_above: float,
    commands: Mapping[str, str],
) -> Counts:
    """Write the page to ``path`` and return what it counts.

    Args:
        path: the file.
        features: what was found.
        interpretation: explanations and scores, where there are any.
        metrics: of the evaluation.
        lineage: what all this was made from.
        title: heading of the page.
        max_features: how many features are shown, those of most worth; None: all.
        contexts_of_kind: contexts shown a feature, of each kind.
        dense_above: share of the tokens above which a feature is dense.
        commands: what would try, explain and score a feature.

    Raises:
        DamagedArtifact: a file of ``features`` is not what was published.
    """
    counts = count_features(features, max_features)
    worth = weigh(features, interpretation.standing() if interpretation is not None else None, dense_above)
    shown = worth.first(max_features)
    # The index stands before the blocks in the page, so that the list works while the rest still loads.
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        index = write_blocks(features, shown, contexts_of_kind, spool, interpretation)
        embedded = {
            **_embedded(features, counts, index, interpretation),
            **map_columns(features, shown),
            **_worth_columns(worth, shown),
            "dense_above": dense_above,
            "commands": dict(commands),
        }
        page = DASHBOARD.open().stream(
            title=title,
            tiles=[*_tiles(metrics, counts), *_interpretation_tiles(interpretation)],
            losses=_losses(metrics),
            left_out=write_left_out(metrics),
            lineage=folded(lineage),
            counts=counts,
            facts=interpretation.facts() if interpretation is not None else [],
            distribution=interpretation.distribution() if interpretation is not None else None,
            index=htmlsafe_json_dumps(embedded, dumps=_dumps),
            has_map="x" in embedded,
            blocks=_lines(spool),
        )
        with path.open("wb") as handle:
            page.dump(handle, encoding="utf-8")
    return counts


def _tiles(metrics: Metrics, counts: Counts) -> list[dict[str, str]]:
    """The figures that one looks at first: label, value, a note below it, and what it means."""
    half_width = metrics.get("ce_recovered_half_width")
    notes = {
        "explained_variance": about_outliers(metrics) or f"FVU {write_metric('fvu', metrics['fvu'])}",
        "l0": "active on a token",
        "dead_fraction": f"on {_short_count(int(metrics['tokens'] or 0))} held-out tokens",
        "ce_recovered": "1 is no loss" if half_width is None else f"± {half_width:.3f}; 1 is no loss",
    }
    by_key = {metric.key: metric for metric in METRICS}
    tiles = [
        {
            "label": by_key[key].label,
            "value": write_metric(key, metrics[key]),
            "note": note,
            "hint": by_key[key].hint,
        }
        for key, note in notes.items()
    ]
    searched = {
        "label": "Tokens",
        "value": _short_count(counts.tokens),
        "note": "searched for contexts",
        "hint": f"{counts.tokens:,} tokens were searched for what activates each feature",
    }
    features = {
        "label": "Features",
        "value": write_value(counts.features),
        "note": f"{counts.dead:,} never fired in training",
        "hint": "width of the autoencoder; density, mean, max and contexts come from the search",
    }
    return [*tiles, searched, features]


def _losses(metrics: Metrics) -> list[dict[str, str]]:
    by_key = {metric.key: metric for metric in METRICS}
    return [
        {"label": by_key[key].label, "value": write_metric(key, metrics[key]), "hint": by_key[key].hint}
        for key in _LOSSES
    ]


def _interpretation_tiles(interpretation: Interpretation | None) -> list[dict[str, str]]:
    if interpretation is None:
        return []
    asked = interpretation.num_features - interpretation.not_scored
    of_asked = f", of {asked:,} asked for" if interpretation.not_scored else ""
    interpretable = {
        "label": "Interpretable",
        "value": write_value(interpretation.interpretable),
        "note": f"held-out {interpretation.figure_label} ≥ {INTERPRETABLE}{of_asked}",
        "hint": "features whose explanation holds on documents that no explainer saw",
    }
    explained = {
        "label": "Explained",
        "value": write_value(interpretation.explained),
        "note": f"of {interpretation.num_features:,} features",
        "hint": "features that an explainer, or a person, has words for",
    }
    return [interpretable, explained]


def _embedded(
    features: FeatureSet, counts: Counts, index: FeatureIndex, interpretation: Interpretation | None
) -> dict[str, Any]:
    """What the script starts from."""
    about = features.about
    content: dict[str, Any] = {
        **index.columns(),
        "block_features": BLOCK_FEATURES,
        "features_total": counts.features,
        "activation_edges": about.histogram_edges,
        "density_histogram": density_histogram(features),
        "tasks": about.tasks,
        "position_edges": about.position_edges,
    }
    if interpretation is not None:
        content["distribution"] = interpretation.distribution()
    return content


def _worth_columns(worth: Worth, shown: NDArray[np.int64]) -> dict[str, Any]:
    """What the list is ordered by, and of the near-duplicates among these features the better one of each."""
    like_S = worth.like_F[shown]
    return {
        "worth": worth.worth_F[shown].round(DIGITS).tolist(),
        "like": {int(feature): int(like) for feature, like in zip(shown, like_S, strict=True) if like >= 0},
    }


def _lines(spool: BinaryIO) -> Iterator[str]:
    spool.seek(0)
    for line in spool:
        yield line.rstrip(b"\n").decode("ascii")


def _short_count(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (size > 10**3 and count >= size):
            return f"{count / size:.3g}{letter}"
    return f"{count:,}"
