"""Quality of an autoencoder in a few figures: how many of its features can be told in words, are dead, are dense.

Every share is of all features: one without an explanation, or whose explanation has no score, is not interpretable.

Shape legend: F features.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

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
_SHOWN = ("f1", "balanced_accuracy", "auroc", "correlation")


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
    table = _Table.of(scores, len(count_F))
    dead = int((count_F == 0).sum())
    main_F = table.values_of(PROGRAM, PROGRAM, _MAIN)
    interpretable = _at_least(main_F)
    headlines = _headlines(table) | {
        "explained": _num_explained(explanations, len(count_F)),
        "dead": dead,
        "dense": int((density_F > DENSE).sum()),
    }
    return {
        "headlines": {name: value for name, value in headlines.items() if value is not None},
        **({"criterion": _criterion(interpretable, dead, len(count_F))} if interpretable is not None else {}),
        "histogram": _histogram(main_F, table.num_scored[PROGRAM, PROGRAM, _MAIN]),
        "means": table.means(),
        "failures": table.failures(),
    }


class _Table(NamedTuple):
    """Scores as one array a figure."""

    num_features: int
    values: dict[Figure, Values]
    num_scored: Counter[Figure]
    num_failed: Counter[tuple[str, str]]  # examples, by explainer and scorer
    num_examples: Counter[tuple[str, str]]

    @classmethod
    def of(cls, scores: Iterable[Score], num_features: int) -> "_Table":
        table = cls(num_features, {}, Counter(), Counter(), Counter())
        for each in scores:
            figure = each.explainer, each.scorer, each.metric
            table.values.setdefault(figure, np.full(num_features, np.nan))[each.feature] = each.value
            table.num_scored[figure] += 1
            if each.metric == _MAIN or each.scorer != PROGRAM:  # programs are tried once for all their metrics
                table.num_failed[each.explainer, each.scorer] += each.num_failures
                table.num_examples[each.explainer, each.scorer] += each.num_examples
        return table

    def values_of(self, explainer: str, scorer: str, metric: str) -> Values:
        """One figure; NaN throughout where it was never measured."""
        found = self.values.get((explainer, scorer, metric))
        return np.full(self.num_features, np.nan) if found is None else found

    def means(self) -> list[dict[str, Any]]:
        """The mean of every figure over the features that have it."""
        names = ("explainer", "scorer", "metric")
        return [
            {**dict(zip(names, figure, strict=True)), "value": _mean(self.values_of(*figure)), "features": num}
            for figure, num in sorted(self.num_scored.items())
        ]

    def failures(self) -> list[dict[str, Any]]:
        """How many examples were judged, and of how many the judge gave no usable answer."""
        return [
            {"explainer": explainer, "scorer": scorer, "failures": self.num_failed[explainer, scorer], "examples": num}
            for (explainer, scorer), num in sorted(self.num_examples.items())
        ]


def _headlines(table: _Table) -> dict[str, Any]:
    """What programs reach, beside the best sets of tokens and shuffled programs."""

    def program(metric: str) -> Values:
        return table.values_of(PROGRAM, PROGRAM, metric)

    token_sets_F = table.values_of(TOKEN_SET, PROGRAM, _MAIN)
    gain_F = program(_MAIN) - token_sets_F
    shuffled = {metric: table.values_of(PROGRAM, f"{PROGRAM}-shuffled", metric) for metric in _SHOWN}
    return {
        "features": table.num_features,
        "interpretable": _at_least(program(_MAIN)),
        "interpretable_any": _at_least(program(f"{_MAIN}_any")),
        "interpretable_token_sets": _at_least(token_sets_F),
        "context_gains": int((gain_F >= GAIN).sum()) if not np.isnan(gain_F).all() else None,
        **{f"program_{metric}": _mean(program(metric)) for metric in _SHOWN},
        **{f"shuffled_{metric}": _mean(value_F) for metric, value_F in shuffled.items()},
    }


def _num_explained(explanations: Iterable[Explanation], num_features: int) -> int:
    explained_F = np.zeros(num_features, dtype=bool)
    for explanation in explanations:
        explained_F[explanation.feature] |= explanation.status == "explained"
    return int(explained_F.sum())


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


def _at_least(value_F: Values) -> int | None:
    """How many reach what counts as interpretable; None where nothing was measured."""
    return None if np.isnan(value_F).all() else int((value_F >= INTERPRETABLE).sum())


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
