"""Pages that are chosen block by block, against all features sorted at once."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mistudio.features.paging import Condition, Direction, choose

NUM_FEATURES = 400


def columns() -> dict[str, pa.Array]:
    """Of every type that columns have, with equal values, nulls and NaN."""
    draw = np.random.default_rng(0)
    real = draw.integers(0, 30, NUM_FEATURES) / 10
    real[draw.random(NUM_FEATURES) < 0.2] = np.nan
    missing = draw.random(NUM_FEATURES) < 0.2
    return {
        "feature": pa.array(np.arange(NUM_FEATURES)),
        "real": pa.array(real, mask=missing),
        "whole": pa.array(draw.integers(0, 9, NUM_FEATURES), mask=missing),
        "flag": pa.array(draw.random(NUM_FEATURES) < 0.5, mask=missing),
        "text": pa.array([f"text {number}" for number in draw.integers(0, 20, NUM_FEATURES)], mask=missing),
        "empty": pa.nulls(NUM_FEATURES, pa.float32()),
    }


def naive(order: Sequence[tuple[str, Direction]], features: list[int], columns: dict[str, list[Any]]) -> list[int]:
    """Sorted by one key after the other, the last first; numbers first, then NaN, then what has no value."""
    for name, direction in reversed(order):
        values = columns[name]
        there = [each for each in features if values[each] is not None and values[each] == values[each]]
        nan = [each for each in features if values[each] is not None and values[each] != values[each]]
        nothing = [each for each in features if values[each] is None]
        there.sort(key=lambda each: values[each], reverse=False)
        if direction == "descending":
            by_value: dict[Any, list[int]] = {}
            for each in there:
                by_value.setdefault(values[each], []).append(each)
            there = [each for value in reversed(by_value) for each in by_value[value]]
        features = [*there, *nan, *nothing]
    return features


@pytest.mark.parametrize("count", [0, 1, 7, 150, 400, 1_000])
@pytest.mark.parametrize(
    "order",
    [
        [],
        [("real", "descending")],
        [("real", "ascending")],
        [("whole", "descending"), ("real", "ascending")],
        [("text", "ascending"), ("flag", "descending")],
        [("flag", "ascending"), ("text", "descending")],
        [("empty", "descending"), ("whole", "ascending")],
    ],
)
def test_blocks_give_what_sorting_everything_gives(order: list[tuple[str, Direction]], count: int) -> None:
    whole = columns()
    listed = {name: values.to_pylist() for name, values in whole.items()}

    def blocks(names: Sequence[str]) -> Iterator[tuple[int, dict[str, pa.Array]]]:
        for start in range(0, NUM_FEATURES, 60):
            yield start, {name: whole[name].slice(start, 60) for name in names}

    for where in ([], [Condition("whole", ">", 2)]):
        matching = [each for each in range(NUM_FEATURES) if not where or (listed["whole"][each] or 0) > 2]
        found = choose(blocks, where, order, count)
        assert found.total == len(matching)
        assert found.feature.tolist() == naive(order, matching, listed)[:count]
