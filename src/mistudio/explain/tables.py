"""Explanations as a table, one row each."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.explain.records import Explanation

EXPLANATIONS_NAME = "explanations.parquet"
TOKEN_SETS_NAME = "token_sets.parquet"  # noqa: S105 -- a file's name
LABELS_NAME = "labels.parquet"
SUMMARY_NAME = "explanations.json"
_ROWS_AT_ONCE = 1024
_LABEL_SCHEMA = pa.schema(
    [("feature", pa.int32()), ("label", pa.string()), ("explainer", pa.string()), ("confidence", pa.float32())]
)
SCHEMA = pa.schema(
    [
        ("feature", pa.int32()),
        ("explainer", pa.string()),
        ("status", pa.string()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("program", pa.string()),
        ("model", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("documents", pa.list_(pa.int32())),
    ]
)


def write_explanations(path: Path, explanations: Iterable[Explanation]) -> None:
    """Write a table of explanations."""
    rows = [{**explanation.model_dump(), "documents": list(explanation.documents)} for explanation in explanations]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def join_tables(path: Path, parts: Iterable[Path]) -> None:
    """Put tables of explanations one after the other, holding one at a time."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
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
    pq.write_table(pa.Table.from_pylist(labels, schema=_LABEL_SCHEMA), path, compression="zstd")
