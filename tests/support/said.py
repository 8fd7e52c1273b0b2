"""Features of which something is said: explanations in words, without a search behind them."""

from collections.abc import Sequence
from typing import Any

from mistudio.artifacts import Draft, Recipe, Store, produce
from mistudio.explain.labels import choose_labels
from mistudio.explain.records import Explanation
from mistudio.explain.tables import as_rows, publish_explanations, publish_labels
from mistudio.features import FEATURES, FeatureSet
from mistudio.features.layout import write_rows


def said(
    store: Store, explanations: Sequence[Explanation], num_features: int, strings: Sequence[str] = ()
) -> FeatureSet:
    """A feature set with these explanations, and tables of nothing else but how tokens read, if that is given."""

    def find(draft: Draft) -> dict[str, Any]:
        if strings:
            ids, none = list(range(len(strings))), [[]] * (num_features - 1)
            columns = {"feature": range(num_features), "mean_token_ids": [ids, *none]}
            rows = FEATURES.build({**columns, "mean_tokens": [list(strings), *none]})
            write_rows(draft, FEATURES, num_features, 128, [rows])
        return {"features": num_features}

    recipe = Recipe(kind="features", config={"features": num_features, "strings": list(strings)}, inputs={})
    features = produce(store, recipe, "find", find).artifact

    def explain(draft: Draft) -> dict[str, Any]:
        rows = sorted(explanations, key=lambda each: each.feature)
        publish_explanations(draft, num_features, [as_rows(rows)])
        publish_labels(draft, num_features, choose_labels(rows))
        return {"features": num_features}

    config = {"texts": [each.text for each in explanations]}
    recipe = Recipe(kind="explanations", config=config, inputs={"features": features.ref})
    return FeatureSet(features, produce(store, recipe, "explain", explain).artifact)
