"""What an explainer may see of each feature, read from found features one feature at a time."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.records import Evidence, Example
from mistudio.features import FeatureSet, Limits, Row

_COLUMNS = ("density", "max", "promoted_tokens", "suppressed_tokens")
_CONTEXT_COLUMNS = ("document", "task", "sequence", "position", "peak", "tokens", "values")


def read_evidence(
    features: FeatureSet, first: int = 0, stop: int | None = None, *, examples: bool = True
) -> Iterator[Evidence]:
    """The evidence of features ``first`` to ``stop``, in order; without examples where none are wanted."""
    limits: Limits | None = None if examples else {}
    for found in features.stream(
        first, stop, columns=_COLUMNS, context_columns=_CONTEXT_COLUMNS, limits=limits, neighbours=False
    ):
        row = found.row
        yield Evidence(
            feature=found.feature,
            examples=tuple(map(_example, found.contexts)),
            density=row["density"],
            max_value=row["max"],
            promoted=tuple(row["promoted_tokens"]),
            suppressed=tuple(row["suppressed_tokens"]),
        )


def read_some(features: FeatureSet, numbers: NDArray[np.int64], *, examples: bool = True) -> Iterator[Evidence]:
    """The evidence of the features of these numbers, which ascend; those in a row are read together."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
        if len(run):
            yield from read_evidence(features, int(run[0]), int(run[-1]) + 1, examples=examples)


def _example(row: Row) -> Example:
    return Example(
        kind=row["kind"],
        tokens=tuple(row["tokens"]),
        # A special token that a sequence begins with is shown, but has no activation.
        values=tuple(0.0 if math.isnan(value) else value for value in row["values"]),
        peak=row["peak"],
        document=row["document"],
        sequence=row["sequence"],
        position=row["position"],
        task=row["task"],
    )
