"""A feature set of any number of features, made up: all that find, explain and score would publish of them.

What a feature is called, says and scores is drawn from its number, so that a test or benchmark knows what to expect.
The other columns repeat after some features: writing them takes as long, making them up does not.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, produce
from mistudio.features import (
    ABOUT_NAME,
    CONTEXT_KINDS,
    CONTEXTS,
    EXPLANATIONS,
    FEATURES,
    LABELS,
    MAP,
    NEIGHBOURS,
    RELATIONS,
    SCORES,
    SCORES_SUMMARY_NAME,
    About,
    FeatureSet,
)
from mistudio.features.layout import write_rows

EXPLAINERS = ("program", "max-activating", "language-model")
FIGURES = [("program", "f1"), ("program", "precision"), ("program", "recall"), ("detection", "balanced_accuracy")]
CONTEXTS_OF_KIND, NEIGHBOURS_OF_RELATION, TOKENS = 2, 5, 33
_AT_ONCE = 16_384
_WORDS = [f"word{number}" for number in range(2_000)]


def publish_feature_tables(store: Store, num_features: int) -> FeatureSet:
    """Features with explanations by ``EXPLAINERS`` and scores of each; the same each time."""
    nothing = InputRef(uri="builtin:made-up", digest="0" * 64)
    config = {"features": num_features}

    def find(draft: Draft) -> Summary:
        tables = (
            (FEATURES, _feature_rows, 128),
            (CONTEXTS, _context_rows, 128),
            (NEIGHBOURS, _neighbour_rows, 256),
            (MAP, _map_rows, 4096),
        )
        for table, rows, of_group in tables:
            write_rows(draft, table, num_features, of_group, _blocks(rows, num_features))
        draft.write(ABOUT_NAME, _about().model_dump_json().encode())
        return {"features": num_features}

    def explain(draft: Draft) -> Summary:
        write_rows(draft, EXPLANATIONS, num_features, 128, _blocks(_explanation_rows, num_features))
        write_rows(draft, LABELS, num_features, 1024, _blocks(_label_rows, num_features))
        return {"features": num_features}

    def score(draft: Draft) -> Summary:
        write_rows(draft, SCORES, num_features, 64, _blocks(_score_rows, num_features))
        means = [
            {"explainer": explainer, "scorer": scorer, "metric": metric}
            for explainer in EXPLAINERS
            for scorer, metric in FIGURES
        ]
        draft.write(SCORES_SUMMARY_NAME, json.dumps({"means": means}).encode())
        return {"features": num_features}

    found = produce(store, Recipe(kind="features", config=config, inputs={"sae": nothing}), "find", find).artifact
    explained = _produce(store, "explanations", config, found, "features", explain)
    scored = _produce(store, "scores", config, explained, "explanations", score)
    return FeatureSet(found, explained, scored)


def label_of(feature: int) -> str:
    """What a feature is called."""
    return f"{_WORDS[feature % 2_000]} {_WORDS[feature // 2_000 % 2_000]}"


def score_of(feature: int) -> float:
    """The F1 of its program."""
    return (feature * 7_919 % 100_003) / 100_003


def density_of(feature: int) -> float:
    """On which share of the tokens it fires."""
    return (feature * 104_729 % 1_000_003) / 1_000_003


def _produce(store: Store, kind: str, config: dict[str, Any], of: Artifact, role: str, build: Any) -> Artifact:
    return produce(store, Recipe(kind=kind, config=config, inputs={role: of.ref}), kind, build).artifact


def _blocks(rows: Any, num_features: int) -> Iterator[pa.Table]:
    for first in range(0, num_features, _AT_ONCE):
        yield rows(np.arange(first, min(first + _AT_ONCE, num_features)), num_features)


def _about() -> About:
    return About(
        num_tokens=10**8,
        histogram_edges=np.geomspace(0.01, 100, 65).tolist(),
        context_before=24,
        context_after=8,
        quantiles=[0.5],
        tasks=["code", "list", "story"],
        position_edges=[0, 1, 2, 4, 8],
    )


def _feature_rows(number: np.ndarray, _num_features: int) -> pa.Table:
    draw, count = np.random.default_rng(0), len(number)
    density = (number * 104_729 % 1_000_003) / 1_000_003
    ids, words = _tokens(count, 10, draw)
    values = _lists(draw.random(count * 10, dtype=np.float32), 10)
    named: dict[str, Any] = {}
    for name, figure in (("promoted", "logits"), ("suppressed", "logits"), ("lift", "values"), ("mean", "values")):
        named |= {f"{name}_token_ids": ids, f"{name}_tokens": words, f"{name}_{figure}": values}
    singles = {name: draw.random(count, dtype=np.float32) for name in ("mean", "max", "coherence", "ablation")}
    lists = {
        "histogram": _lists(draw.integers(0, 1000, count * 64), 64),
        "quantiles": _lists(draw.random(count * 6, dtype=np.float32), 6),
        "task_density": _lists(draw.random(count * 3, dtype=np.float32), 3),
        "position_density": _lists(draw.random(count * 5, dtype=np.float32), 5),
    }
    counts = (density * 10**8).astype(np.int64)
    return FEATURES.build({"feature": number, "count": counts, "density": density, **singles, **named, **lists})


def _context_rows(number: np.ndarray, _num_features: int) -> pa.Table:
    draw, each = np.random.default_rng(1), len(CONTEXT_KINDS) * CONTEXTS_OF_KIND
    count = len(number) * each
    ids, words = _tokens(count, TOKENS, draw)
    kinds = pa.array(np.repeat(CONTEXT_KINDS, CONTEXTS_OF_KIND).tolist())
    return CONTEXTS.build(
        {
            "feature": np.repeat(number, each),
            "kind": kinds.take(pa.array(np.tile(np.arange(each), len(number)))),
            "rank": np.tile(np.tile(np.arange(CONTEXTS_OF_KIND), len(CONTEXT_KINDS)), len(number)),
            "document": draw.integers(0, 1000, count),
            "task": pa.array(["story"]).take(pa.array(np.zeros(count, dtype=np.int64))),
            "sequence": draw.integers(0, 10**6, count),
            "position": draw.integers(0, 1000, count),
            "value": draw.random(count, dtype=np.float32),
            "peak": np.full(count, 24),
            "token_ids": ids,
            "tokens": words,
            "values": _lists(np.where(draw.random(count * TOKENS) < 0.1, 0.5, 0).astype(np.float32), TOKENS),
        }
    )


def _neighbour_rows(number: np.ndarray, num_features: int) -> pa.Table:
    draw, each = np.random.default_rng(2), len(RELATIONS) * NEIGHBOURS_OF_RELATION
    relations = pa.array(np.repeat(RELATIONS, NEIGHBOURS_OF_RELATION).tolist())
    return NEIGHBOURS.build(
        {
            "feature": np.repeat(number, each),
            "relation": relations.take(pa.array(np.tile(np.arange(each), len(number)))),
            "rank": np.tile(np.tile(np.arange(NEIGHBOURS_OF_RELATION), len(RELATIONS)), len(number)),
            "other": draw.integers(0, num_features, len(number) * each),
            "value": draw.random(len(number) * each, dtype=np.float32),
        }
    )


def _map_rows(number: np.ndarray, _num_features: int) -> pa.Table:
    x, y = np.random.default_rng(3).random((2, len(number)), dtype=np.float32)
    return MAP.build({"feature": number, "x": x, "y": y, "cluster": number % 50})


def _explanation_rows(number: np.ndarray, _num_features: int) -> pa.Table:
    said, count = len(EXPLAINERS), len(number) * len(EXPLAINERS)
    feature = np.repeat(number, said)
    texts = pc.binary_join_element_wise("Fires on", _words(feature), "beside", _words(feature // 2_000), " ")
    program = pa.array(
        ['{"branches": [{"conditions": [{"column": "current", "tokens": [1, 2, 3, 4]}], "value": 1.0}]}']
    )
    return EXPLANATIONS.build(
        {
            "feature": feature,
            "explainer": pa.array(EXPLAINERS).take(pa.array(np.tile(np.arange(said), len(number)))),
            "status": pa.array(["explained"]).take(pa.array(np.zeros(count, dtype=np.int64))),
            "text": texts,
            "label": _labels(feature),
            "program": program.take(pa.array(np.zeros(count, dtype=np.int64))),
            "seed": np.zeros(count, dtype=np.int64),
            "documents": _lists(np.tile(np.arange(10), count), 10),
        }
    )


def _label_rows(number: np.ndarray, _num_features: int) -> pa.Table:
    explainer = pa.array([EXPLAINERS[0]]).take(pa.array(np.zeros(len(number), dtype=np.int64)))
    return LABELS.build({"feature": number, "label": _labels(number), "explainer": explainer})


def _score_rows(number: np.ndarray, _num_features: int) -> pa.Table:
    each = len(EXPLAINERS) * len(FIGURES)
    feature = np.repeat(number, each)
    which = np.tile(np.arange(each), len(number))
    explainer = pa.array(np.repeat(EXPLAINERS, len(FIGURES)).tolist()).take(pa.array(which))
    scorer, metric = (
        pa.array(list(names) * len(EXPLAINERS)).take(pa.array(which)) for names in zip(*FIGURES, strict=True)
    )
    value = (feature * 7_919 % 100_003) / 100_003
    figures = {"value": value, "low": value - 0.05, "high": value + 0.05}
    counts = {name: np.full(len(feature), 400) for name in ("num_examples", "num_failures")}
    return SCORES.build(
        {"feature": feature, "explainer": explainer, "scorer": scorer, "metric": metric, **figures, **counts}
    )


def _labels(feature: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(_words(feature), _words(feature // 2_000), " ")


def _words(number: np.ndarray) -> pa.Array:
    return pa.array(_WORDS).take(pa.array(number % len(_WORDS)))


def _tokens(count: int, each: int, draw: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    """Lists of tokens as common as those of a text, by id and as they read."""
    vocabulary = pa.array([f" tok{number}" for number in range(50_257)])
    ids = pa.array((draw.zipf(1.3, count * each) % len(vocabulary)).astype(np.int32))
    return _lists(ids, each), _lists(vocabulary.take(ids), each)


def _lists(values: Any, each: int) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(array) + 1, each), pa.int32()), array)
