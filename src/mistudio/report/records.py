"""From the tables of the find, explain and score steps to what the page embeds.

The page holds an *index* (a few figures and tokens of every feature, as columns, for the list and the map) and the
*details* (histogram, logits, contexts, explanations) in blocks of features. A block is compressed and is opened by
the browser only when one of its features is looked at, so that a page of 10,000 features starts at once.

The tables of find are read in batches and the blocks go to disk as they are made: memory holds one batch, one block
and the index, and what was said of the features.
"""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.features import FeatureSet, Limits
from mistudio.progress import progress
from mistudio.report.interpretation import Interpretation
from mistudio.report.metrics import finite, rounded
from mistudio.report.surroundings import nearest, pairs, profile

BLOCK_FEATURES = 200
_ATTRIBUTIONS = ("gradient", "integrated")
_CONTEXT_COLUMNS = ("document", "task", "position", "value", "peak", "neighbour", "tokens", "values", *_ATTRIBUTIONS)
_CONTEXTS_NAMES = {"top": "contexts", "sampled": "sampled", "random": "random", "hard_negative": "hard_negative"}
_FAINTEST = 0.01  # attributions below this share of the largest of their context are not shown
_TEXT_CHARACTERS = 240  # of an explanation, in the index: enough to search by
_INDEX_TOKENS = 6
_BINS_PER_DECADE = 5

Row = dict[str, Any]


class Counts(NamedTuple):
    """How many features there are, and how many tokens they were looked for in."""

    features: int
    shown: int
    dead: int
    tokens: int


@dataclass
class FeatureIndex:
    """The feature list, as columns; one entry a shown feature, in the order of the blocks."""

    feature: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    density: list[float] = field(default_factory=list)
    mean: list[float | None] = field(default_factory=list)
    max: list[float | None] = field(default_factory=list)
    peaks: list[list[str]] = field(default_factory=list)
    promoted: list[list[str]] = field(default_factory=list)
    label: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    score: list[float | None] = field(default_factory=list)

    def add(self, row: Row, contexts: Sequence[Row], interpretation: Interpretation | None) -> None:
        """Append one feature, with the strongest of its contexts."""
        self.feature.append(row["feature"])
        self.count.append(row["count"])
        self.density.append(rounded(row["density"]) or 0.0)
        self.mean.append(rounded(row["mean"]))
        self.max.append(rounded(row["max"]))
        peaks = Counter(context["tokens"][context["peak"]] for context in contexts)
        self.peaks.append([token for token, _ in peaks.most_common(_INDEX_TOKENS)])
        self.promoted.append(row["promoted_tokens"][:_INDEX_TOKENS])
        if interpretation is not None:
            self.label.append(interpretation.label(row["feature"]))
            self.text.append(interpretation.text(row["feature"])[:_TEXT_CHARACTERS])
            self.score.append(rounded(float(interpretation.main_F[row["feature"]])))

    def columns(self) -> dict[str, list[Any]]:
        """The columns by name, without those that nothing is known for."""
        return {name: column for name, column in asdict(self).items() if column or name == "feature"}


def count_features(features: FeatureSet, max_features: int | None) -> Counts:
    """Count all features, those that the page shows, and those that never fired."""
    count_F = features.column("count").to_numpy()
    return Counts(
        features=len(count_F),
        shown=min(len(count_F), max_features or len(count_F)),
        dead=int((count_F == 0).sum()),
        tokens=features.about.num_tokens,
    )


def density_histogram(features: FeatureSet) -> dict[str, list[float]]:
    """Features by log10 of their density, over all features that fire; edges are log10 values."""
    density_F = features.column("density").to_numpy()
    logs = np.log10(density_F[density_F > 0])
    if not len(logs):
        return {"edges": [], "counts": []}
    first, last = np.floor(logs.min() * _BINS_PER_DECADE), np.ceil(logs.max() * _BINS_PER_DECADE)
    edges = np.arange(first, max(last, first + 1) + 1) / _BINS_PER_DECADE
    counts, _ = np.histogram(logs, edges)
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}


def write_blocks(
    features: FeatureSet,
    shown: NDArray[np.int64],
    contexts_of_kind: Limits,
    spool: BinaryIO,
    interpretation: Interpretation | None = None,
) -> FeatureIndex:
    """Write the details of all shown features, one block a line, and return their index.

    Args:
        features: what was found.
        shown: numbers of the features to show, ascending.
        contexts_of_kind: contexts shown a feature, of each kind.
        spool: the lines go here.
        interpretation: explanations and scores, where there are any.

    Raises:
        DamagedArtifact: a table is not what was published.
    """
    index = FeatureIndex()
    wanted, stop = set(shown.tolist()), int(shown.max(initial=-1)) + 1
    stream = features.stream(0, stop, context_columns=_CONTEXT_COLUMNS, limits=contexts_of_kind)
    found = (each for each in stream if each.feature in wanted)
    with progress("Write features", len(shown), "features") as bar:
        while block := list(islice(found, BLOCK_FEATURES)):
            details = []
            for each in block:
                by_kind = _by_kind(each.contexts)
                index.add(each.row, by_kind.get("top", []), interpretation)
                detail = _detail(each.row, by_kind)
                detail["neighbours"] = nearest(each.neighbours)
                details.append(detail | (interpretation.detail(each.feature) if interpretation is not None else {}))
            spool.write(encode_block(details) + b"\n")
            bar.advance(len(block))
    return index


def encode_block(details: list[Row]) -> bytes:
    """JSON, compressed, as base64: the same bytes for the same details."""
    text = json.dumps(details, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0))


def _by_kind(contexts: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in contexts:
        found.setdefault(row["kind"], []).append(row)
    return found


def _detail(row: Row, contexts: Mapping[str, Sequence[Row]]) -> Row:
    return {
        "histogram": row["histogram"],
        "promoted": pairs(row["promoted_tokens"], row["promoted_logits"]),
        "suppressed": pairs(row["suppressed_tokens"], row["suppressed_logits"]),
        "contexts": [],
        **{_CONTEXTS_NAMES[kind]: [_context(context) for context in rows] for kind, rows in contexts.items()},
        **profile(row),
    }


def _context(row: Row) -> Row:
    """One context; of the values only those that are not zero, as most are."""
    values = [finite(value) for value in row["values"]]
    shown = {
        "document": row["document"],
        "task": row["task"],
        "position": row["position"],
        "value": rounded(row["value"]),
        "peak": row["peak"],
        "tokens": row["tokens"],
        "active": [(place, rounded(value)) for place, value in enumerate(values) if value],
        "uncaptured": [place for place, value in enumerate(values) if value is None],
    }
    if row["neighbour"] is not None:
        shown["neighbour"] = row["neighbour"]
    return shown | {name: _attribution(row[name]) for name in _ATTRIBUTIONS if row[name]}


def _attribution(values: Sequence[float]) -> list[tuple[int, float | None]]:
    """What counts of how much each token did."""
    known = [finite(value) or 0.0 for value in values]
    least = _FAINTEST * max(map(abs, known), default=0.0)
    return [(place, rounded(value)) for place, value in enumerate(known) if value and abs(value) >= least]
