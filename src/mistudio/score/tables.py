"""Scores as a table, one figure a row."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact
from mistudio.features import SCORES, SCORES_SUMMARY_NAME
from mistudio.score.records import Score

SCORES_NAME, SUMMARY_NAME = SCORES.name, SCORES_SUMMARY_NAME
_ROWS_AT_ONCE = 65_536


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write a table of scores."""
    pq.write_table(_rows(scores), path, compression="zstd")


def write_many(path: Path, scores: Iterable[Score]) -> None:
    """Write a table of scores, holding some at a time."""
    left = iter(scores)
    with pq.ParquetWriter(path, SCORES.schema, compression="zstd") as writer:
        while some := list(islice(left, _ROWS_AT_ONCE)):
            writer.write_table(_rows(some))


def _rows(scores: Iterable[Score]) -> pa.Table:
    columns = list(zip(*scores, strict=True)) or [()] * len(SCORES.columns)
    arrays = [pa.array(values, column.type) for values, column in zip(columns, SCORES.columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCORES.schema)


def join_scores(path: Path, parts: Iterable[Path]) -> None:
    """Put tables of scores one after the other, holding one at a time."""
    with pq.ParquetWriter(path, SCORES.schema, compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))


def read_score_table(path: Path) -> Iterator[Score]:
    """The scores of a table, in its order."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from map(Score, *(column.to_pylist() for column in batch.columns))


def read_scores(scores: Artifact) -> Iterator[Score]:
    """The scores of an artifact of kind ``scores``."""
    yield from read_score_table(scores.file(SCORES_NAME))
