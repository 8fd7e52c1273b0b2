"""Explanations as a table, one row each."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.explain.records import Explanation
from mistudio.features import EXPLANATIONS, LABELS, TOKEN_SETS

EXPLANATIONS_NAME, TOKEN_SETS_NAME, LABELS_NAME = EXPLANATIONS.name, TOKEN_SETS.name, LABELS.name
SUMMARY_NAME = "explanations.json"
_ROWS_AT_ONCE = 1024


def write_explanations(path: Path, explanations: Iterable[Explanation]) -> None:
    """Write a table of explanations."""
    pq.write_table(_rows(explanations), path, compression="zstd")


def write_many(path: Path, explanations: Iterable[Explanation]) -> None:
    """Write a table of explanations, holding some at a time."""
    left = iter(explanations)
    with pq.ParquetWriter(path, EXPLANATIONS.schema, compression="zstd") as writer:
        while some := list(islice(left, _ROWS_AT_ONCE)):
            writer.write_table(_rows(some))


def _rows(explanations: Iterable[Explanation]) -> pa.Table:
    rows = [{**explanation.model_dump(), "documents": list(explanation.documents)} for explanation in explanations]
    return pa.Table.from_pylist(rows, schema=EXPLANATIONS.schema)


def join_tables(path: Path, parts: Iterable[Path]) -> None:
    """Put tables of explanations one after the other, holding one at a time."""
    with pq.ParquetWriter(path, EXPLANATIONS.schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))


def read_table(path: Path) -> Iterator[Explanation]:
    """The explanations of a table, in its order."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                confidence = row["confidence"]
                row["confidence"] = None if confidence is None else round(confidence, 6)
                yield Explanation.model_validate(row)


def read_explanations(explanations: Artifact, name: str = EXPLANATIONS_NAME) -> Iterator[Explanation]:
    """The explanations of an artifact of kind ``explanations``: by explainer, then by feature."""
    yield from read_table(explanations.file(name))


def write_labels(path: Path, labels: list[dict[str, Any]]) -> None:
    """One row a feature: its label, who gave it, and how well that explanation fits."""
    pq.write_table(pa.Table.from_pylist(labels, schema=LABELS.schema), path, compression="zstd")
