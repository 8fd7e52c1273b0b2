"""Quality of an autoencoder in a few figures: how many of its features can be told in words, are dead, are dense.

Every share is of all features: one without an explanation, or whose explanation has no score, is not interpretable.

Shape legend: F features.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.config import PROGRAM, TOKEN_SET
from mistudio.explain.records import Explanation
from mistudio.features import Figure
from mistudio.score.records import Score

Values = NDArray[np.float64]  # one a feature; NaN where there is none

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
    num_features = len(count_F)
    values: dict[Figure, Values] = defaultdict(lambda: np.full(num_features, np.nan))
    num_scored = Counter[Figure]()
    failures: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for each in scores:
        figure = each.explainer, each.scorer, each.metric
        values[figure][each.feature] = each.value
        num_scored[figure] += 1
        if each.metric == _MAIN or each.scorer != PROGRAM:
            failures[each.explainer, each.scorer][0] += each.num_failures
            failures[each.explainer, each.scorer][1] += each.num_examples
    explained_F = np.zeros(num_features, dtype=bool)
    for explanation in explanations:
        explained_F[explanation.feature] |= explanation.status == "explained"
    dead, dense = int((count_F == 0).sum()), int((density_F > DENSE).sum())
    none_F = np.full(num_features, np.nan)

    def of(explainer: str, scorer: str, metric: str) -> Values:
        return values.get((explainer, scorer, metric), none_F)

    main_F, token_sets_F = of(PROGRAM, PROGRAM, _MAIN), of(TOKEN_SET, PROGRAM, _MAIN)
    interpretable = _at_least(main_F)
    headlines = {
        "features": num_features,
        "interpretable": interpretable,
        "interpretable_any": _at_least(of(PROGRAM, PROGRAM, f"{_MAIN}_any")),
        "interpretable_token_sets": _at_least(token_sets_F),
        "explained": int(explained_F.sum()),
        "context_gains": int((main_F - token_sets_F >= GAIN).sum()),
        "dead": dead,
        "dense": dense,
        **{f"program_{metric}": _mean(of(PROGRAM, PROGRAM, metric)) for metric in _SHOWN},
        **{f"shuffled_{metric}": _mean(of(PROGRAM, f"{PROGRAM}-shuffled", metric)) for metric in _SHOWN},
    }
    return {
        "headlines": {name: value for name, value in headlines.items() if value is not None},
        "criterion": _criterion(interpretable, dead, num_features),
        "histogram": _histogram(main_F, num_scored[PROGRAM, PROGRAM, _MAIN]),
        "means": [
            {
                "explainer": explainer,
                "scorer": scorer,
                "metric": metric,
                "value": _mean(of(explainer, scorer, metric)),
                "features": num,
            }
            for (explainer, scorer, metric), num in sorted(num_scored.items())
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


def _at_least(value_F: Values) -> int:
    return int((value_F >= INTERPRETABLE).sum())


def _mean(value_F: Values) -> float | None:
    """The mean of those that are defined; None where none is."""
    defined = value_F[~np.isnan(value_F)]
    return round(float(defined.mean()), 6) if len(defined) else None


def _histogram(value_F: Values, num_scored: int) -> dict[str, Any]:
    """Features by score, in bins of 0.05 from 0 to 1; those whose score is not defined are counted apart."""
    defined = value_F[~np.isnan(value_F)]
    counts, edges = np.histogram(defined, bins=_BINS, range=(0, 1))
    return {
        "edges": [round(edge, 6) for edge in edges.tolist()],
        "features": counts.tolist(),
        "undefined": num_scored - len(defined),
    }
