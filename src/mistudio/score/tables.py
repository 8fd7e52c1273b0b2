"""Scores as a table, one figure a row."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft
from mistudio.features import SCORES, SCORES_SUMMARY_NAME
from mistudio.features.layout import write_rows
from mistudio.features.merging import merged
from mistudio.features.tables import TableReader
from mistudio.score.records import Score

SCORES_NAME, SUMMARY_NAME = SCORES.name, SCORES_SUMMARY_NAME
_ROWS_AT_ONCE = 65_536
_FEATURES_OF_GROUP = 64


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write a file of scores by feature, those of a feature as they come."""
    pq.write_table(_rows(sorted(scores, key=attrgetter("feature"))), path, compression="zstd")


def publish_scores(draft: Draft, num_features: int, streams: Sequence[Iterable[pa.Table]]) -> list[str]:
    """Write the table of scores by feature, holding some at a time; return the names of its files.

    Args:
        draft: of the artifact.
        num_features: of the search.
        streams: scores by rising feature; of a feature those of the first stream come first.
    """
    return write_rows(draft, SCORES, num_features, _FEATURES_OF_GROUP, merged(streams))


def file_rows(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of files of scores, one file after the other."""
    return map(pq.read_table, paths)


def kept_rows(scores: Artifact, scorer: str, kept_F: NDArray[np.bool_]) -> Iterator[pa.Table]:
    """The rows of an artifact of kind ``scores`` by one scorer, of some features, by feature."""
    for rows in TableReader(scores, SCORES).ascending():
        own = rows.filter(pc.equal(rows["scorer"], scorer))
        yield own.filter(pa.array(kept_F[own["feature"].to_numpy()]))


def read_score_tables(paths: Iterable[Path]) -> Iterator[Score]:
    """The scores of several files, one after the other."""
    return chain.from_iterable(map(_read_file, paths))


def read_scores(scores: Artifact) -> Iterator[Score]:
    """The scores of an artifact of kind ``scores``, in the order of its table."""
    for batch in TableReader(scores, SCORES).batches(SCORES.names):
        yield from _scores(batch)


def _rows(scores: Iterable[Score]) -> pa.Table:
    columns = list(zip(*scores, strict=True)) or [()] * len(SCORES.columns)
    arrays = [pa.array(values, column.type) for values, column in zip(columns, SCORES.columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCORES.schema)


def _read_file(path: Path) -> Iterator[Score]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            yield from _scores(batch)


def _scores(batch: pa.RecordBatch) -> Iterator[Score]:
    return map(Score, *(column.to_pylist() for column in batch.columns))
