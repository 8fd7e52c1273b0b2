"""From the tables of the find step to what the page embeds.

The page holds an *index* (a few figures and tokens of every feature, as columns, for the list) and the
*details* (histogram, logits and contexts) in blocks of features. A block is compressed and is opened by
the browser only when one of its features is looked at, so that a page of 10,000 features starts at once.

Both tables are read in batches and the blocks go to disk as they are made: memory holds one batch, one
block and the index.
"""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.progress import progress
from mistudio.report.metrics import finite

BLOCK_FEATURES = 200
_CONTEXT_ROWS_READ = 2048
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

    def add(self, row: Row, contexts: Sequence[Row]) -> None:
        """Append one feature."""
        self.feature.append(row["feature"])
        self.count.append(row["count"])
        self.density.append(_rounded(row["density"]) or 0.0)
        self.mean.append(_rounded(row["mean"]))
        self.max.append(_rounded(row["max"]))
        peaks = Counter(context["tokens"][context["peak"]] for context in contexts)
        self.peaks.append([token for token, _ in peaks.most_common(_INDEX_TOKENS)])
        self.promoted.append(row["promoted_tokens"][:_INDEX_TOKENS])

    def columns(self) -> dict[str, list[Any]]:
        """The columns by name."""
        return asdict(self)


def count_features(features: Artifact, max_features: int | None) -> Counts:
    """Count all features, those that the page shows, and those that never fired."""
    column = pq.read_table(features.file("features.parquet"), columns=["count"])["count"].to_numpy()
    num_features = len(column)
    return Counts(
        features=num_features,
        shown=min(num_features, max_features or num_features),
        dead=int((column == 0).sum()),
        tokens=int(read_find(features)["num_tokens"]),
    )


def read_find(features: Artifact) -> Row:
    """What ``find.json`` says of the whole search."""
    content: Row = json.loads(features.file("find.json").read_text(encoding="utf-8"))
    return content


def density_histogram(features: Artifact) -> dict[str, list[float]]:
    """Features by log10 of their density, over all features that fire; edges are log10 values."""
    density = pq.read_table(features.file("features.parquet"), columns=["density"])["density"].to_numpy()
    logs = np.log10(density[density > 0])
    if not len(logs):
        return {"edges": [], "counts": []}
    first, last = np.floor(logs.min() * _BINS_PER_DECADE), np.ceil(logs.max() * _BINS_PER_DECADE)
    edges = np.arange(first, max(last, first + 1) + 1) / _BINS_PER_DECADE
    counts, _ = np.histogram(logs, edges)
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}


def write_blocks(features: Artifact, counts: Counts, contexts_per_feature: int, spool: BinaryIO) -> FeatureIndex:
    """Write the details of all shown features, one block a line, and return their index.

    Raises:
        DamagedArtifact: a table is not what was published.
    """
    index = FeatureIndex()
    contexts = _ContextReader(features.file("contexts.parquet"), contexts_per_feature)
    rows = islice(_rows(features.file("features.parquet"), BLOCK_FEATURES), counts.shown)
    with progress("report", counts.shown, "features") as bar:
        while block := list(islice(rows, BLOCK_FEATURES)):
            details = []
            for row in block:
                feature_contexts = contexts.of(row["feature"])
                index.add(row, feature_contexts)
                details.append(_detail(row, feature_contexts))
            spool.write(encode_block(details) + b"\n")
            bar.advance(len(block))
    return index


def encode_block(details: list[Row]) -> bytes:
    """JSON, compressed, as base64: the same bytes for the same details."""
    text = json.dumps(details, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0))


class _ContextReader:
    """Contexts of one feature after the other, for features asked for in rising order."""

    def __init__(self, path: Path, limit: int) -> None:
        groups = groupby(_rows(path, _CONTEXT_ROWS_READ), key=itemgetter("feature"))
        self._groups = ((feature, list(islice(rows, limit))) for feature, rows in groups)
        self._next = next(self._groups, None)

    def of(self, feature: int) -> list[Row]:
        """The first contexts of ``feature``; none where it has none."""
        while self._next and self._next[0] < feature:
            self._next = next(self._groups, None)
        return self._next[1] if self._next and self._next[0] == feature else []


def _rows(path: Path, batch_rows: int) -> Iterator[Row]:
    for batch in pq.ParquetFile(path).iter_batches(batch_size=batch_rows):
        yield from batch.to_pylist()


def _detail(row: Row, contexts: Sequence[Row]) -> Row:
    return {
        "histogram": row["histogram"],
        "promoted": _pairs(row["promoted_tokens"], row["promoted_logits"]),
        "suppressed": _pairs(row["suppressed_tokens"], row["suppressed_logits"]),
        "contexts": [_context(context) for context in contexts],
    }


def _pairs(tokens: Sequence[str], logits: Sequence[float]) -> list[tuple[str, float | None]]:
    return [(token, _rounded(logit)) for token, logit in zip(tokens, logits, strict=True)]


def _context(row: Row) -> Row:
    """One context; of the values only those that are not zero, as most are."""
    values = [finite(value) for value in row["values"]]
    return {
        "document": row["document"],
        "task": row["task"],
        "position": row["position"],
        "value": _rounded(row["value"]),
        "peak": row["peak"],
        "tokens": row["tokens"],
        "active": [(place, _rounded(value)) for place, value in enumerate(values) if value],
        "uncaptured": [place for place, value in enumerate(values) if value is None],
    }


def _rounded(value: float | None) -> float | None:
    """Four significant digits, which is more than anyone reads off a page."""
    return None if finite(value) is None else float(f"{value:.4g}")
