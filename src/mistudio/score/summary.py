"""Quality of an autoencoder in a few figures: how many of its features can be told in words, are dead, are dense.

Every share is of all features: one without an explanation, or whose explanation has no score, is not interpretable.

Shape legend: F features.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.config import PROGRAM, TOKEN_SET
from mistudio.explain.records import Explanation
from mistudio.score.records import Score

INTERPRETABLE = 0.8
DENSE = 0.1
GAIN = 0.1
MIN_INTERPRETABLE = 50  # more than so many features of a layer, and less than this share of them dead: the criterion
MAX_DEAD = 0.2
_BINS = 20
_MAIN = "f1"


def summarise(
    scores: Iterable[Score],
    explanations: Iterable[Explanation],
    count_F: NDArray[np.int64],
    density_F: NDArray[np.float64],
) -> dict[str, Any]:
    """The content of ``scores.json``.

    Args:
        scores: all scores.
        explanations: all explanations.
        count_F: on how many training tokens each feature fires.
        density_F: on which fraction of them.
    """
    values: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    failures: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for each in scores:
        values[each.explainer, each.scorer, each.metric][each.feature] = each.value
        if each.metric == _MAIN or each.scorer != PROGRAM:
            failures[each.explainer, each.scorer][0] += each.num_failures
            failures[each.explainer, each.scorer][1] += each.num_examples
    num_features = len(count_F)
    explained = {each.feature for each in explanations if each.status == "explained"}
    dead, dense = int((count_F == 0).sum()), int((density_F > DENSE).sum())
    main = values.get((PROGRAM, PROGRAM, _MAIN), {})
    any_firing = values.get((PROGRAM, PROGRAM, f"{_MAIN}_any"), {})
    token_sets = values.get((TOKEN_SET, PROGRAM, _MAIN), {})
    interpretable = _at_least(main)
    gained = sum(main[feature] - token_sets[feature] >= GAIN for feature in main.keys() & token_sets.keys())
    headlines = {
        "features": num_features,
        "interpretable": interpretable,
        "interpretable_any": _at_least(any_firing),
        "interpretable_token_sets": _at_least(token_sets),
        "explained": len(explained),
        "context_gains": gained,
        "dead": dead,
        "dense": dense,
        **{f"program_{metric}": _mean(values.get((PROGRAM, PROGRAM, metric), {})) for metric in _SHOWN},
        **{f"shuffled_{metric}": _mean(values.get((PROGRAM, f"{PROGRAM}-shuffled", metric), {})) for metric in _SHOWN},
    }
    return {
        "headlines": {name: value for name, value in headlines.items() if value is not None},
        "criterion": _criterion(interpretable, dead, num_features),
        "histogram": _histogram(main),
        "means": [
            {"explainer": explainer, "scorer": scorer, "metric": metric, "value": _mean(of), "features": len(of)}
            for (explainer, scorer, metric), of in sorted(values.items())
        ],
        "failures": [
            {"explainer": explainer, "scorer": scorer, "failures": failed, "examples": examples}
            for (explainer, scorer), (failed, examples) in sorted(failures.items())
        ],
    }


_SHOWN = ("f1", "balanced_accuracy", "auroc", "correlation")


def _criterion(interpretable: int, dead: int, num_features: int) -> dict[str, Any]:
    """More than 50 interpretable features in the layer, and fewer than 20% of all features dead."""
    share = dead / max(num_features, 1)
    return {
        "interpretable": interpretable,
        "interpretable_more_than": MIN_INTERPRETABLE,
        "dead_fraction": share,
        "dead_fraction_below": MAX_DEAD,
        "holds": interpretable > MIN_INTERPRETABLE and share < MAX_DEAD,
    }


def _at_least(values: dict[int, float]) -> int:
    return sum(value >= INTERPRETABLE for value in values.values())


def _mean(values: dict[int, float]) -> float | None:
    """The mean of those that are defined; None where none is."""
    defined = [value for value in values.values() if not math.isnan(value)]
    return round(float(np.mean(defined)), 6) if defined else None


def _histogram(values: dict[int, float]) -> dict[str, Any]:
    """Features by score, in bins of 0.05 from 0 to 1; those without a score are counted apart."""
    defined = [value for value in values.values() if not math.isnan(value)]
    counts, edges = np.histogram(defined, bins=_BINS, range=(0, 1))
    return {
        "edges": [round(edge, 6) for edge in edges.tolist()],
        "features": counts.tolist(),
        "undefined": len(values) - len(defined),
    }
