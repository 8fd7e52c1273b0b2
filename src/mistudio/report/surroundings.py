"""What surrounds a feature: its neighbours, its place on the map, and the tasks and positions it fires in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mistudio.features import FeatureSet, Neighbours
from mistudio.report.metrics import finite, rounded

_RELATIONS = ("decoder", "correlation")
_NEIGHBOURS_SHOWN = 8
_EFFECTS = ("ablation", "ablation_elsewhere", "ablation_control", "coherence")
_PROFILES = ("task_density", "position_density")
_MAP_STEPS = 2000  # places along each side of the map: finer than anyone can see

Row = dict[str, Any]


def nearest(neighbours: Neighbours) -> dict[str, list[tuple[int, float | None]]]:
    """The few that are shown, by direction and by co-activation, with their cosine or correlation."""
    shown = {relation: neighbours.get(relation, [])[:_NEIGHBOURS_SHOWN] for relation in _RELATIONS}
    return {name: [(other, rounded(value)) for other, value in near] for name, near in shown.items() if near}


def map_columns(features: FeatureSet, shown: NDArray[np.int64]) -> dict[str, list[int | None]]:
    """Where these features lie, in whole steps from the lower left, and their clusters."""
    places = (features.column(axis).to_numpy(zero_copy_only=False)[shown] for axis in ("x", "y"))
    place_F2 = np.stack(list(places), axis=1)
    if not len(place_F2) or not np.isfinite(place_F2).all():
        return {}
    low_2 = place_F2.min(axis=0)
    # One scale for both axes: distances on the map mean the same in all directions.
    scale = _MAP_STEPS / max(float((place_F2.max(axis=0) - low_2).max()), 1e-9)
    steps_F2 = ((place_F2 - low_2) * scale).round().astype(np.int64)
    cluster = features.column("cluster").take(pa.array(shown)).to_pylist()
    return {"x": steps_F2[:, 0].tolist(), "y": steps_F2[:, 1].tolist(), "cluster": cluster}


def profile(row: Row) -> Row:
    """Effects of taking the feature out, densities by task and position, and the tokens that go with it."""
    found: Row = {name: rounded(row[name]) for name in _EFFECTS if finite(row[name]) is not None}
    found |= {name: [rounded(value) for value in row[name]] for name in _PROFILES if row[name]}
    if row["lift_tokens"]:
        found["lift"] = pairs(row["lift_tokens"], row["lift_values"])
    return found


def pairs(tokens: Sequence[str], values: Sequence[float]) -> list[tuple[str, float | None]]:
    """Tokens with their figures."""
    return [(token, rounded(value)) for token, value in zip(tokens, values, strict=True)]
