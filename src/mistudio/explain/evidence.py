"""What an explainer may see of each feature, read from found features one feature at a time."""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.explain.records import Evidence, Example
from mistudio.find import CONTEXTS_NAME, FEATURES_NAME

_ROWS_AT_ONCE = 2048
_COLUMNS = ("feature", "document", "task", "sequence", "position", "peak", "tokens", "values", "kind")


def read_evidence(
    features: Artifact, first: int = 0, stop: int | None = None, *, examples: bool = True
) -> Iterator[Evidence]:
    """The evidence of features ``first`` to ``stop``, in order; without examples where none are wanted."""
    contexts = _contexts(features, first) if examples else iter(())
    waiting = next(contexts, None)
    for row in _feature_rows(features, first, stop):
        while waiting is not None and waiting[0] < row["feature"]:
            waiting = next(contexts, None)
        found = waiting is not None and waiting[0] == row["feature"]
        yield Evidence(
            feature=row["feature"],
            examples=waiting[1] if found and waiting is not None else (),
            density=row["density"],
            max_value=row["max"],
            promoted=tuple(row["promoted_tokens"]),
            suppressed=tuple(row["suppressed_tokens"]),
        )


def count_firing_contexts(features: Artifact) -> NDArray[np.int64]:
    """How many contexts each feature has in which it fires [F]."""
    num_features = int(str(features.manifest.summary["features"]))
    if CONTEXTS_NAME not in features.paths():
        return np.zeros(num_features, dtype=np.int64)
    path = features.file(CONTEXTS_NAME)
    wanted = [name for name in ("feature", "kind") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=wanted)
    firing = np.ones(len(table), dtype=bool)
    if "kind" in wanted:
        firing = pc.is_in(table["kind"], value_set=pa.array(["top", "sampled"])).to_numpy()
    counts: NDArray[np.int64] = np.bincount(table["feature"].to_numpy()[firing], minlength=num_features)
    return counts


def _feature_rows(features: Artifact, first: int, stop: int | None) -> Iterator[dict[str, Any]]:
    columns = ["feature", "density", "max", "promoted_tokens", "suppressed_tokens"]
    with pq.ParquetFile(features.file(FEATURES_NAME)) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                if row["feature"] >= first and (stop is None or row["feature"] < stop):
                    yield row


def _contexts(features: Artifact, first: int) -> Iterator[tuple[int, tuple[Example, ...]]]:
    """The examples of each feature that has any, by feature."""
    if CONTEXTS_NAME not in features.paths():
        return
    with pq.ParquetFile(features.file(CONTEXTS_NAME)) as file:
        names = set(file.schema_arrow.names)
        groups = [group for group in range(file.num_row_groups) if _last_feature(file, group) >= first]
        batches = file.iter_batches(
            _ROWS_AT_ONCE, row_groups=groups, columns=[name for name in _COLUMNS if name in names]
        )
        rows = (row for batch in batches for row in batch.to_pylist())
        for feature, group_rows in groupby(rows, key=lambda row: int(row["feature"])):
            yield feature, tuple(map(_example, group_rows))


def _last_feature(file: pq.ParquetFile, group: int) -> int:
    """The last feature of a row group; tables are sorted by feature."""
    place = file.schema_arrow.names.index("feature")
    return int(file.metadata.row_group(group).column(place).statistics.max)


def _example(row: dict[str, Any]) -> Example:
    return Example(
        kind=row.get("kind", "top"),
        tokens=tuple(row["tokens"]),
        # A special token that a sequence begins with is shown, but has no activation.
        values=tuple(0.0 if math.isnan(value) else value for value in row["values"]),
        peak=row["peak"],
        document=row["document"],
        sequence=row["sequence"],
        position=row["position"],
        task=row["task"],
    )
