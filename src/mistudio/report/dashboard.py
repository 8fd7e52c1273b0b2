"""The dashboard page: the list of features, and all that is known of each."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from mistudio.artifacts import Artifact
from mistudio.report.lineage import Node
from mistudio.report.metrics import METRICS, Metrics, write_metric, write_value
from mistudio.report.page import Page
from mistudio.report.records import (
    BLOCK_FEATURES,
    Counts,
    FeatureIndex,
    count_features,
    density_histogram,
    read_find,
    write_blocks,
)

DASHBOARD = Page("dashboard.html.j2", "dashboard.css", "dashboard.js")
_LOSSES = ("ce_clean", "ce_spliced", "ce_zero", "kl", "cosine", "l1")

_dumps = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_dashboard(
    path: Path,
    *,
    features: Artifact,
    metrics: Metrics,
    lineage: Sequence[Sequence[Node]],
    title: str,
    max_features: int | None,
    contexts_per_feature: int,
) -> Counts:
    """Write the page to ``path`` and return what it counts.

    Raises:
        DamagedArtifact: a file of ``features`` is not what was published.
    """
    counts = count_features(features, max_features)
    # The index stands before the blocks in the page, so that the list works while the rest still loads.
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        index = write_blocks(features, counts, contexts_per_feature, spool)
        page = DASHBOARD.open().stream(
            title=title,
            tiles=_tiles(metrics, counts),
            losses=_losses(metrics),
            lineage=lineage,
            counts=counts,
            index=_embedded(features, counts, index),
            blocks=_lines(spool),
        )
        with path.open("wb") as handle:
            page.dump(handle, encoding="utf-8")
    return counts


def _tiles(metrics: Metrics, counts: Counts) -> list[dict[str, str]]:
    """The figures that one looks at first: label, value, a note below it, and what it means."""
    notes = {
        "explained_variance": f"FVU {write_metric('fvu', metrics['fvu'])}",
        "l0": "active on a token",
        "dead_fraction": "in the evaluation",
        "ce_recovered": "1 is no loss",
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
        "note": f"{counts.dead:,} never fired",
        "hint": "width of the autoencoder; density, mean, max and contexts come from the search",
    }
    return [*tiles, searched, features]


def _losses(metrics: Metrics) -> list[dict[str, str]]:
    by_key = {metric.key: metric for metric in METRICS}
    return [
        {"label": by_key[key].label, "value": write_metric(key, metrics[key]), "hint": by_key[key].hint}
        for key in _LOSSES
    ]


def _embedded(features: Artifact, counts: Counts, index: FeatureIndex) -> Markup:
    """What the script starts from, as JSON that cannot end the element it stands in."""
    content = {
        **index.columns(),
        "block_features": BLOCK_FEATURES,
        "features_total": counts.features,
        "activation_edges": read_find(features)["histogram_edges"],
        "density_histogram": density_histogram(features),
    }
    return htmlsafe_json_dumps(content, dumps=_dumps)


def _lines(spool: BinaryIO) -> Iterator[str]:
    spool.seek(0)
    for line in spool:
        yield line.rstrip(b"\n").decode("ascii")


def _short_count(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (size > 10**3 and count >= size):
            return f"{count / size:.3g}{letter}"
    return f"{count:,}"
