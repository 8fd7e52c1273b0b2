"""Features of which something is said: explanations in words, without a search behind them."""

from collections.abc import Sequence
from typing import Any

from mistudio.artifacts import Draft, Recipe, Store, produce
from mistudio.explain.labels import choose_labels
from mistudio.explain.records import Explanation
from mistudio.explain.tables import as_rows, publish_explanations, publish_labels
from mistudio.features import FeatureSet


def said(store: Store, explanations: Sequence[Explanation], num_features: int) -> FeatureSet:
    """A feature set with these explanations, and tables of nothing else."""
    recipe = Recipe(kind="features", config={"features": num_features}, inputs={})
    features = produce(store, recipe, "find", lambda _draft: {"features": num_features}).artifact

    def explain(draft: Draft) -> dict[str, Any]:
        rows = sorted(explanations, key=lambda each: each.feature)
        publish_explanations(draft, num_features, [as_rows(rows)])
        publish_labels(draft, num_features, choose_labels(rows))
        return {"features": num_features}

    config = {"texts": [each.text for each in explanations]}
    recipe = Recipe(kind="explanations", config=config, inputs={"features": features.ref})
    return FeatureSet(features, produce(store, recipe, "explain", explain).artifact)
