"""What the find, explain and score steps say of the features of a made-up run, beyond its statistics and contexts."""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from mistudio.artifacts import Artifact, Recipe, Store, produce
from mistudio.explain.labels import choose_labels
from mistudio.explain.records import Explanation
from mistudio.explain.tables import TOKEN_SETS_NAME, as_rows, publish_explanations, publish_labels
from mistudio.features import MAP, NEIGHBOURS
from mistudio.score.records import Score
from mistudio.score.summary import summarise
from mistudio.score.tables import SUMMARY_NAME, file_rows, write_scores
from mistudio.score.tables import publish_scores as publish_score_table
from tests.support.fake_run import ABOUT, make_tables, publish_tables, token_ids

METRICS = ("f1", "precision", "recall", "balanced_accuracy", "auroc")


def publish_meaningful_run(
    store: Store, num_features: int, dead: Sequence[int] = (), person: dict[int, str] | None = None
) -> tuple[Artifact, Artifact, Artifact]:
    """Features with all that find knows of them, their evaluation, and scores of their explanations."""
    feature_rows, context_rows = make_tables(num_features, 6, set(dead), 24, True)
    surround(feature_rows, context_rows)
    neighbours, places = surrounding_tables(num_features)
    features, evaluation = publish_tables(store, feature_rows, context_rows, neighbours=neighbours, places=places)
    explanations = explain_all(feature_rows, context_rows, person or {})
    return features, evaluation, publish_scores(store, features, feature_rows, explanations, score_all(feature_rows))


def surround(feature_rows: list[dict[str, Any]], context_rows: list[dict[str, Any]]) -> None:
    """Add effects and profiles to features, and contexts of all kinds, some with attributions."""
    for row in feature_rows:
        fires = row["count"] > 0
        row |= {
            "coherence": 0.75 if fires else None,
            "ablation": 0.5 if fires else None,
            "ablation_elsewhere": 0.01 if fires else None,
            "ablation_control": -0.02 if fires else None,
            "task_density": [row["density"] * share for share in (2, 1, 0.5)],
            "position_density": [row["density"]] * len(ABOUT.position_edges),
            "lift_token_ids": token_ids(["def", " self"]) if fires else [],
            "lift_tokens": ["def", " self"] if fires else [],
            "lift_values": [40.0, 3.5] if fires else [],
        }
    of_feature: dict[int, list[dict[str, Any]]] = {}
    for row in context_rows:
        of_feature.setdefault(row["feature"], []).append(row)
    context_rows.clear()
    for rows in of_feature.values():
        for row in rows:
            row |= {"neighbour": None, "integrated": None, "gradient": None}
        rows[0]["integrated"] = [0.0, *([0.001] * (len(rows[0]["tokens"]) - 2)), -0.4]
        rows[0]["integrated"][rows[0]["peak"]] = 2.0
        context_rows += rows
        for kind in ("sampled", "random", "hard_negative"):
            context_rows += [_of_kind(kind, row) for row in rows]


def surrounding_tables(num_features: int) -> tuple[pa.Table, pa.Table]:
    """Neighbours in a ring, and a map on a circle with every third feature in no cluster."""
    rows = [
        {"feature": feature, "relation": relation, "rank": rank, "other": other, "value": 0.9 - 0.1 * rank}
        for feature in range(num_features)
        for relation, step in (("decoder", 1), ("correlation", 2), ("pmi", 3))
        for rank, other in enumerate([(feature + step) % num_features, (feature - step) % num_features])
    ]
    angle = 2 * np.pi * np.arange(num_features) / num_features
    cluster = [None if feature % 3 == 2 else feature % 3 for feature in range(num_features)]
    columns = {"x": np.cos(angle), "y": np.sin(angle), "cluster": cluster, "group": [None] * num_features}
    places = MAP.build({"feature": range(num_features), **columns})
    return pa.Table.from_pylist(rows, schema=NEIGHBOURS.schema), places


def explain_all(
    feature_rows: list[dict[str, Any]], context_rows: list[dict[str, Any]], person: dict[int, str]
) -> list[Explanation]:
    """A person's labels, then one explanation a feature by the program explainer."""
    peaks = {row["feature"]: row["tokens"][row["peak"]] for row in context_rows}
    explanations = [
        Explanation(feature=feature, explainer="person", text=label, label=label, confidence=1.0)
        for feature, label in person.items()
    ]
    for row in feature_rows:
        peak = peaks.get(row["feature"])
        if peak is None:
            dead = Explanation(feature=row["feature"], explainer="program", status="dead", text="Never fires.")
            explanations.append(dead)
            continue
        words = {"text": f"Fires on `{peak}` in a number-{row['feature']}-way.", "label": f"`{peak}`"}
        explanations.append(Explanation(feature=row["feature"], explainer="program", confidence=0.9, **words))
    return explanations


def score_all(feature_rows: list[dict[str, Any]]) -> list[Score]:
    """Scores by programs, sets of tokens, shuffled programs and a judge; F1 rises from feature to feature."""
    scores = []
    for row in feature_rows:
        feature, fires = row["feature"], row["count"] > 0
        value = (feature + 1) / len(feature_rows) if fires else np.nan
        failures = 0 if fires else 1000
        for suffix, loss in (("", 0), ("_any", 0.1)):
            for metric in METRICS:
                figure = (value - loss, value - loss - 0.05, value - loss + 0.04)
                scores.append(Score(feature, "program", "program", metric + suffix, *figure, 1000, failures))
                scores.append(Score(feature, "token-set", "program", metric + suffix, *figure, 1000, failures))
        if fires:
            scores += [Score(feature, "program", "program", f"fires{end}", 400, 300, 500, 1000) for end in ("", "_any")]
            scores.append(Score(feature, "program", "program-shuffled", "f1", 0.004, np.nan, np.nan, 1000))
            scores.append(Score(feature, "program", "detection", "balanced_accuracy", 0.7, 0.6, 0.8, 40, 3))
    # A scorer writes its figures of all features before the next: they are not in the order of the features.
    return sorted(scores, key=lambda score: (score.scorer, score.explainer))


def publish_scores(
    store: Store,
    features: Artifact,
    feature_rows: list[dict[str, Any]],
    explanations: list[Explanation],
    scores: list[Score],
) -> Artifact:
    """Scores, and the explanations that they are of."""
    num_features = len(feature_rows)

    def build_explanations(draft: Any) -> dict[str, Any]:
        said = sorted(explanations, key=attrgetter("feature"))
        programs = [each for each in said if each.explainer == "program"]
        publish_explanations(draft, num_features, [as_rows(said)])
        publish_explanations(draft, num_features, [as_rows(map(_token_set, programs))], TOKEN_SETS_NAME)
        publish_labels(draft, num_features, choose_labels(explanations))
        return {"explained": sum(each.status == "explained" for each in explanations)}

    def build_scores(draft: Any) -> dict[str, Any]:
        with draft.stage_work("scores.parquet") as path:
            write_scores(path, scores)
        publish_score_table(draft, num_features, [file_rows([draft.work_file("scores.parquet")])])
        counts, densities = (np.array([row[name] for row in feature_rows]) for name in ("count", "density"))
        content = summarise(scores, explanations, counts, densities) | {"threshold": 0.2}
        draft.write(SUMMARY_NAME, json.dumps(content).encode())
        return content["headlines"]

    config = {"number": len(explanations)}
    recipe = Recipe(kind="explanations", config=config, inputs={"features": features.ref})
    made = produce(store, recipe, "explain", build_explanations).artifact
    recipe = Recipe(kind="scores", config=config, inputs={"explanations": made.ref})
    return produce(store, recipe, "score", build_scores).artifact


def _of_kind(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """A context like ``row``; where the feature is silent, all values are zero."""
    changed = {"kind": kind, "integrated": None}
    if kind == "sampled":
        return row | changed
    neighbour = row["feature"] + 1 if kind == "hard_negative" else None
    return row | changed | {"value": 0.0, "values": [0.0] * len(row["tokens"]), "neighbour": neighbour}


def _token_set(program: Explanation) -> Explanation:
    text = program.text.replace("Fires on", "Fires on any") if program.status == "explained" else program.text
    return program.model_copy(update={"explainer": "token-set", "text": text})
