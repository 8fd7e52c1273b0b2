"""A run as the find and evaluate steps publish it, made from the text of the standard library.

Each feature fires on one token (and a little on what follows it), so that a page made from it reads like
a real one. Everything is drawn from a seed.
"""

import inspect
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pydoc_data.topics import topics
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from mistudio.artifacts import Artifact, InputRef, Recipe, Store, produce
from mistudio.features import ABOUT_NAME, CONTEXTS, FEATURES, MAP, NEIGHBOURS, About
from mistudio.features.tables import writing

BOS = "<s>"
EDGES = np.geomspace(0.01, 20.0, 41)
MODULES = ("argparse", "ast", "collections", "dataclasses", "difflib", "email.message", "enum", "functools", "heapq")
MODULES += ("inspect", "json.decoder", "logging", "pathlib", "random", "shutil", "statistics", "textwrap", "typing")
TOKEN = re.compile(r"\n[ ]*| ?[A-Za-z]{1,9}| ?[0-9]{1,3}| ?[^\sA-Za-z0-9]{1,3}|\s")

ABOUT = About(
    num_tokens=3_000_000,
    histogram_edges=EDGES.tolist(),
    context_before=23,
    context_after=8,
    quantiles=[0.5],
    tasks=["code", "docstring", "prose"],
    position_edges=[0, 1, 2, 4, 8],
)
METRICS = {
    "explained_variance": 0.9517,
    "fvu": 0.0483,
    "l0": 31.6,
    "l1": 58.4,
    "cosine": 0.976,
    "dead_fraction": 0.0039,
    "ce_clean": 1.9283,
    "ce_spliced": 1.9671,
    "ce_zero": 6.2139,
    "ce_recovered": 0.9909,
    "ce_recovered_half_width": 0.0031,
    "kl": 0.0412,
    "tokens": 204_800,
}


def publish_run(
    store: Store,
    *,
    num_features: int = 24,
    contexts: int = 10,
    dead: Sequence[int] = (),
    width: int = 32,
    logits: bool = True,
    metrics: dict[str, Any] | None = None,
) -> tuple[Artifact, Artifact]:
    """The features and the evaluation of a small run, with all that they were made from."""
    tables = make_tables(num_features, contexts, set(dead), width, logits)
    return publish_tables(store, *tables, metrics=metrics)


def publish_tables(
    store: Store,
    feature_rows: list[dict[str, Any]],
    context_rows: list[dict[str, Any]],
    *,
    metrics: dict[str, Any] | None = None,
    subject: str = "folder:stories260K",
    hook: str = "resid_post",
    neighbours: pa.Table | None = None,
    places: pa.Table | None = None,
    config: dict[str, Any] | None = None,
) -> tuple[Artifact, Artifact]:
    """Publish given rows as the features of a run; without neighbours, and without places on the map, unless given."""
    width = len(feature_rows)
    subject_ref = InputRef(uri=subject, digest="7c9e1b52" * 8)
    text_ref = InputRef(uri="file:corpus.jsonl", digest="0a51f3d8" * 8)
    corpus = _publish(
        store,
        "corpus",
        {"max_tokens": 3_000_000, "context_length": 128, "split": {"held_out": 0.1}},
        {"source": text_ref, "subject": subject_ref},
        {"documents": 2_914, "tokens": 3_000_000, "tasks": "code, docstring, prose"},
    )
    activations = _publish(
        store,
        "activations",
        {"layer": 3, "hook": hook, "dtype": "float16", "batch_tokens": 4096},
        {"corpus": corpus.ref, "subject": subject_ref},
        {"rows": 2_699_776, "width": 128, "hook": f"{hook} 3"},
    )
    sae = _publish(
        store,
        "sae",
        {"architecture": "topk", "width": width, "k": 32, "learning_rate": 0.003, "steps": 1465},
        {"activations": activations.ref},
        {"architecture": "topk", "features": width, "k": 32},
    )
    recipe_inputs = {"sae": sae.ref, "activations": activations.ref, "corpus": corpus.ref}
    if neighbours is None:
        neighbours = NEIGHBOURS.schema.empty_table()
    if places is None:
        nowhere = np.full(width, np.nan)
        places = MAP.build({"feature": np.arange(width), "x": nowhere, "y": nowhere})

    def build_features(draft: Any) -> dict[str, Any]:
        for table, path, rows in (
            (FEATURES, FEATURES.name, pa.Table.from_pylist(feature_rows, schema=FEATURES.schema)),
            (CONTEXTS, f"{CONTEXTS.name}/0000000.parquet", pa.Table.from_pylist(context_rows, schema=CONTEXTS.schema)),
            (NEIGHBOURS, NEIGHBOURS.name, neighbours),
            (MAP, MAP.name, places),
        ):
            with draft.stage(path) as staged, writing(staged, table) as writer:
                writer.write_table(rows, row_group_size=100)
        draft.write(ABOUT_NAME, ABOUT.model_dump_json().encode())
        return {
            "features": width,
            "dead": sum(row["count"] == 0 for row in feature_rows),
            "contexts": len(context_rows),
        }

    def build_evaluation(draft: Any) -> dict[str, Any]:
        draft.write("metrics.json", json.dumps(METRICS if metrics is None else metrics).encode())
        return {"explained_variance": 0.9517, "l0": 31.6, "ce_recovered": 0.9909}

    features = produce(
        store, Recipe(kind="features", config=config or {"contexts": 10}, inputs=recipe_inputs), "find", build_features
    )
    evaluation = produce(
        store,
        Recipe(kind="evaluation", config={"max_tokens": 204_800}, inputs={"sae": sae.ref, "corpus": corpus.ref}),
        "evaluate",
        build_evaluation,
    )
    return features.artifact, evaluation.artifact


def make_tables(
    num_features: int, contexts: int, dead: set[int], width: int, logits: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the tables of features and of contexts."""
    documents, places, following = _text()
    triggers = [token for token, found in places.items() if len(found) >= max(contexts, 3)]
    rng = np.random.default_rng(0)
    feature_rows, context_rows = [], []
    for feature in range(num_features):
        alive = feature not in dead
        trigger = triggers[int(rng.integers(len(triggers)))]
        peak_value = float(rng.lognormal(1.2, 0.5))
        feature_rows.append(_feature_row(feature, alive, peak_value, following[trigger] if logits else None, rng))
        if alive:
            found = places[trigger]
            chosen = rng.choice(len(found), size=min(contexts, len(found)), replace=False)
            for rank, place in enumerate(chosen):
                value = peak_value * 0.97**rank
                context_rows.append(_context_row(feature, rank, documents, found[place], value, width, rng))
    _by_density(feature_rows)
    return feature_rows, context_rows


def _by_density(feature_rows: list[dict[str, Any]]) -> None:
    """Give the densest of the features that fire the lowest number: of equal worth, they are listed by number then."""
    alive = [row for row in feature_rows if row["count"]]
    falling = sorted(((row["count"], row["density"]) for row in alive), reverse=True)
    for row, (count, density) in zip(alive, falling, strict=True):
        row |= {"count": count, "density": density}


def _feature_row(
    feature: int, alive: bool, peak_value: float, following: list[str] | None, rng: np.random.Generator
) -> dict[str, Any]:
    count = int(rng.lognormal(7.5, 1.8)) + 10 if alive else 0
    histogram = np.zeros(len(EDGES) - 1, dtype=np.int64)
    if alive:
        drawn = np.clip(rng.lognormal(np.log(peak_value / 4), 0.6, size=2000), EDGES[0], peak_value)
        histogram += (np.histogram(drawn, EDGES)[0] * max(count / 2000, 0.001)).round().astype(np.int64)
    promoted = following or []
    suppressed = promoted[::-1]
    return {
        "feature": feature,
        "count": count,
        "density": count / 3_000_000,
        "mean": peak_value / 3.3 if alive else 0.0,
        "max": peak_value if alive else 0.0,
        "histogram": histogram.tolist(),
        "promoted_token_ids": token_ids(promoted),
        "promoted_tokens": promoted,
        "promoted_logits": np.sort(rng.gamma(3, 0.4, len(promoted)))[::-1].tolist(),
        "suppressed_token_ids": token_ids(suppressed),
        "suppressed_tokens": suppressed,
        "suppressed_logits": (-np.sort(rng.gamma(3, 0.25, len(suppressed)))[::-1]).tolist(),
    }


def _context_row(
    feature: int,
    rank: int,
    documents: list[tuple[str, list[str]]],
    place: tuple[int, int],
    value: float,
    width: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    document, position = place
    task, tokens = documents[document]
    start = max(position - 3 * width // 4 + 1, 0)
    shown = tokens[start : start + width]
    peak = position - start
    values = np.zeros(len(shown), dtype=np.float32)
    values[[i for i, token in enumerate(shown) if token == tokens[position]]] = value * rng.uniform(0.3, 0.95)
    values[peak] = value
    values[peak + 1 : peak + 3] = value * rng.uniform(0.05, 0.5)
    values[[i for i, token in enumerate(shown) if token == BOS]] = np.nan
    return {
        "feature": feature,
        "kind": "top",
        "rank": rank,
        "document": document,
        "task": task,
        "sequence": document,
        "position": position,
        "value": value,
        "peak": peak,
        "token_ids": token_ids(shown),
        "tokens": shown,
        "values": values.tolist(),
    }


def token_ids(tokens: Sequence[str]) -> list[int]:
    """A number for each token, the same for the same."""
    return [crc32(token.encode()) % 50_000 for token in tokens]


@cache
def _text() -> tuple[list[tuple[str, list[str]]], dict[str, list[tuple[int, int]]], dict[str, list[str]]]:
    """Documents as (task, tokens), where each token occurs, and what most often follows it."""
    documents: list[tuple[str, list[str]]] = []
    for text in topics.values():
        documents.append(("prose", [BOS, *TOKEN.findall(text[:4000])]))
    for name in MODULES:
        module = import_module(name)
        source = inspect.getsource(module)
        for start in range(0, min(len(source), 20_000), 4000):
            documents.append(("code", [BOS, *TOKEN.findall(source[start : start + 4000])]))
        for member in vars(module).values():
            text = inspect.isfunction(member) and member.__doc__
            if text and len(text) > 200:
                documents.append(("docstring", [BOS, *TOKEN.findall(text[:2000])]))
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    after: dict[str, Counter[str]] = defaultdict(Counter)
    for number, (_, tokens) in enumerate(documents):
        for position in range(1, len(tokens)):
            places[tokens[position]].append((number, position))
            after[tokens[position - 1]][tokens[position]] += 1
    common = [text for text, _ in Counter({token: len(found) for token, found in places.items()}).most_common(200)]
    following = {
        token: list(dict.fromkeys([*(text for text, _ in found.most_common(6)), *common[len(token) :: 17]]))[:10]
        for token, found in after.items()
    }
    return documents, {token: found for token, found in places.items() if token in following}, following


def _publish(
    store: Store, kind: str, config: dict[str, Any], inputs: dict[str, InputRef], summary: dict[str, Any]
) -> Artifact:
    def build(draft: Any) -> dict[str, Any]:
        draft.write("data.json", b"{}")
        return summary

    return produce(store, Recipe(kind=kind, config=config, inputs=inputs), kind, build).artifact
