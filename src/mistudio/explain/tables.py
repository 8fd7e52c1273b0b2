"""Explanations as a table, one row each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact, Draft
from mistudio.explain.records import Explanation
from mistudio.features import EXPLANATIONS, LABELS, TOKEN_SETS, Table
from mistudio.features.layout import parts_of, write_rows
from mistudio.features.merging import merged
from mistudio.features.tables import TableReader

EXPLANATIONS_NAME, TOKEN_SETS_NAME, LABELS_NAME = EXPLANATIONS.name, TOKEN_SETS.name, LABELS.name
SUMMARY_NAME = "explanations.json"
_TABLES: Mapping[str, Table] = {EXPLANATIONS_NAME: EXPLANATIONS, TOKEN_SETS_NAME: TOKEN_SETS}
_ROWS_AT_ONCE = 1024
_FEATURES_OF_GROUP = 128
_LABELS_OF_GROUP = 1024


def write_explanations(path: Path, explanations: Iterable[Explanation]) -> None:
    """Write a file of explanations, in their order."""
    pq.write_table(_rows(explanations), path, compression="zstd")


def publish_explanations(
    draft: Draft, num_features: int, streams: Sequence[Iterable[pa.Table]], name: str = EXPLANATIONS_NAME
) -> list[str]:
    """Write a table of explanations by feature, holding some at a time; return the names of its files.

    Args:
        draft: of the artifact.
        num_features: of the search.
        streams: explanations by rising feature; of a feature those of the first stream come first.
        name: of the table.
    """
    return write_rows(draft, _TABLES[name], num_features, _FEATURES_OF_GROUP, merged(streams))


def publish_labels(draft: Draft, num_features: int, labels: list[dict[str, Any]]) -> None:
    """Write one row a feature: its label, who gave it, and how well that explanation fits."""
    write_rows(draft, LABELS, num_features, _LABELS_OF_GROUP, [pa.Table.from_pylist(labels, schema=LABELS.schema)])


def as_rows(explanations: Iterable[Explanation]) -> Iterator[pa.Table]:
    """Explanations as rows, some at a time."""
    left = iter(explanations)
    while some := list(islice(left, _ROWS_AT_ONCE)):
        yield _rows(some)


def file_rows(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of files of explanations, one file after the other."""
    return map(pq.read_table, paths)


def read_table(path: Path) -> Iterator[Explanation]:
    """The explanations of a file, in its order."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from _explanations(batch.to_pylist())


def read_tables(paths: Iterable[Path]) -> Iterator[Explanation]:
    """The explanations of several files, one after the other."""
    return chain.from_iterable(map(read_table, paths))


def read_explanations(explanations: Artifact, name: str = EXPLANATIONS_NAME) -> Iterator[Explanation]:
    """The explanations of an artifact of kind ``explanations``, by feature."""
    for rows in TableReader(explanations, _TABLES[name]).ascending():
        for some in rows.to_batches(_ROWS_AT_ONCE):
            yield from _explanations(some.to_pylist())


def holds_token_sets(explanations: Artifact) -> bool:
    """Whether an artifact of kind ``explanations`` has the best sets of tokens too."""
    return bool(parts_of(explanations, TOKEN_SETS))


def _rows(explanations: Iterable[Explanation]) -> pa.Table:
    rows = [{**explanation.model_dump(), "documents": list(explanation.documents)} for explanation in explanations]
    return pa.Table.from_pylist(rows, schema=EXPLANATIONS.schema)


def _explanations(rows: Iterable[dict[str, Any]]) -> Iterator[Explanation]:
    for row in rows:
        confidence = row["confidence"]
        row["confidence"] = None if confidence is None else round(confidence, 6)
        yield Explanation.model_validate(row)
