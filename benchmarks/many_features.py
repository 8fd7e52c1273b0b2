"""What looking at features costs, and explaining and scoring them beside the language model, as they get more.

Run as ``python -m benchmarks.many_features``; makes a tiny model, an autoencoder of as many features as asked for, and
the tables that find would write of them, each feature with 60 contexts of 33 tokens and 40 neighbours. Prints a table
and writes ``build/bench/many_features.json``. With 131,072 features the tables take 1.4 GB and minutes to make.

Explain is run with ``max-activating`` and a language model that answers at once; score with programs of one condition
and with ``detection``, on six examples a feature: what is left is reading, drawing, and writing. Both run in
processes of their own, and their times are of the processor; those of looks too with ``--processor-time``, for a
machine that is busy. ``--sizes`` takes other numbers of features.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks import reporting
from benchmarks.peak_memory import peak_bytes
from benchmarks.reporting import Row, row
from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, open_artifact, open_store, produce
from mistudio.explain import ExplainConfig, JudgeSource, explain
from mistudio.explain.judge import Chat, Reply, Request, Spending
from mistudio.explain.programs import Branch, Member, Program
from mistudio.explain.records import Explanation
from mistudio.explain.tables import SUMMARY_NAME, write_explanations
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
    TOKEN_SETS,
    About,
    Condition,
    FeatureSet,
)
from mistudio.features.tables import writing
from mistudio.find import FindConfig
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.score import ScoreConfig, score
from mistudio.score.sampling import ExamplesConfig
from mistudio.subject import SubjectSource, resolve_source
from tests.support.tiny import WIDTH
from tests.support.tiny_run import CPU, TinyRun, make_llama_run, publish_sae

Clock = Callable[[], float]

SIZES = (16_384, 65_536, 131_072)
OF_KIND = dict(zip(CONTEXT_KINDS, (20, 20, 10, 10), strict=True))
TOKENS, NEIGHBOURS_EACH = 33, 10
FEATURES_OF_GROUP, GROUPS_OF_FILE = 16, 256  # as find has them for so many contexts
BLOCK = 128
LOOKS = 50
FEATURE_MS, PAGE_MS = 10, 300
FLAT = 1.5  # how much more of anything a feature may take where there are eight times as many


def make_features(run: TinyRun, num_features: int) -> Artifact:
    """What find would publish of so many features, at random."""
    sae = new_autoencoder(TopKConfig(width=num_features, k=8, allow_wide=True), WIDTH)
    sae.for_training().initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(0))
    published = publish_sae(run.store, sae, run.activations)
    draw = np.random.default_rng(0)

    def build(draft: Draft) -> Summary:
        with draft.stage(FEATURES.name) as path, writing(path, FEATURES) as writer:
            for first in range(0, num_features, 4096):
                rows = feature_rows(first, min(4096, num_features - first), draw)
                writer.write_table(rows, row_group_size=256)
        of_file = FEATURES_OF_GROUP * GROUPS_OF_FILE
        contexts = context_rows(FEATURES_OF_GROUP, draw)
        for first in range(0, num_features, of_file):
            name = f"{CONTEXTS.name}/{first:07d}.parquet"
            with draft.stage(name) as path, writing(path, CONTEXTS) as writer:
                for start in range(first, min(first + of_file, num_features), FEATURES_OF_GROUP):
                    writer.write_table(numbered(contexts, start, FEATURES_OF_GROUP))
        near = neighbour_rows(256, num_features, draw)
        with draft.stage(NEIGHBOURS.name) as path, writing(path, NEIGHBOURS) as writer:
            for start in range(0, num_features, 256):
                writer.write_table(numbered(near, start, 256))
        with draft.stage(MAP.name) as path, writing(path, MAP) as writer:
            writer.write_table(map_rows(num_features, draw), row_group_size=4096)
        draft.write(ABOUT_NAME, about().model_dump_json().encode())
        return {"features": num_features}

    inputs = {"sae": published.ref, "subject": InputRef(uri=run.source.uri, digest=run.source.digest)}
    recipe = Recipe(kind="features", config=FindConfig().model_dump(mode="json"), inputs=inputs)
    return produce(run.store, recipe, "find", build).artifact


def about() -> About:
    return About(
        num_tokens=10**8,
        histogram_edges=np.geomspace(0.01, 100, 65).tolist(),
        context_before=24,
        context_after=8,
        quantiles=[0.5],
        tasks=["code", "list", "story"],
        position_edges=[0, 1, 2, 4, 8],
    )


def feature_rows(first: int, count: int, draw: np.random.Generator) -> pa.Table:
    counts = draw.integers(1, 10**6, count)
    words, values = word_lists(count * 10, 10, draw), draw.random((count, 10), dtype=np.float32)
    lists: dict[str, Any] = {}
    for name, figure in (("promoted", "logits"), ("suppressed", "logits"), ("lift", "values"), ("mean", "values")):
        lists |= {f"{name}_token_ids": words[0], f"{name}_tokens": words[1], f"{name}_{figure}": list(values)}
    singles = {name: draw.random(count, dtype=np.float32) for name in ("mean", "max", "coherence", "ablation")}
    return FEATURES.build(
        {
            "feature": np.arange(first, first + count),
            "count": counts,
            "density": counts / 10**8,
            "histogram": list(draw.integers(0, 1000, (count, 64))),
            "quantiles": list(values[:, :6]),
            "task_density": list(values[:, :3]),
            "position_density": list(values[:, :5]),
            **singles,
            **lists,
        }
    )


def context_rows(num_features: int, draw: np.random.Generator) -> pa.Table:
    """Contexts of some features, all kinds of each."""
    kinds = [kind for kind, count in OF_KIND.items() for _ in range(count)]
    ranks = [rank for count in OF_KIND.values() for rank in range(count)]
    num_rows = num_features * len(kinds)
    ids, words = word_lists(num_rows * TOKENS, TOKENS, draw)
    fires = np.tile([kind in ("top", "sampled") for kind in kinds], num_features)
    values = np.where(draw.random((num_rows, TOKENS)) < 0.1, draw.random((num_rows, TOKENS)), 0) * fires[:, None]
    values[:, 24] = fires * (0.1 + draw.random(num_rows))
    numbers = draw.integers(0, 10**6, (3, num_rows))
    return CONTEXTS.build(
        {
            "feature": np.repeat(np.arange(num_features), len(kinds)),
            "kind": kinds * num_features,
            "rank": ranks * num_features,
            "document": numbers[0] % 40,
            "task": ["story"] * num_rows,
            "sequence": numbers[1],
            "position": numbers[2],
            "value": values[:, 24],
            "peak": np.full(num_rows, 24),
            "token_ids": ids,
            "tokens": words,
            "values": list(values.astype(np.float32)),
        }
    )


def neighbour_rows(num_features: int, of: int, draw: np.random.Generator) -> pa.Table:
    each = len(RELATIONS) * NEIGHBOURS_EACH
    return NEIGHBOURS.build(
        {
            "feature": np.repeat(np.arange(num_features), each),
            "relation": np.tile(np.repeat(RELATIONS, NEIGHBOURS_EACH), num_features),
            "rank": np.tile(np.arange(NEIGHBOURS_EACH), num_features * len(RELATIONS)),
            "other": draw.integers(0, of, num_features * each),
            "value": draw.random(num_features * each, dtype=np.float32),
        }
    )


def map_rows(num_features: int, draw: np.random.Generator) -> pa.Table:
    x, y = draw.random((2, num_features), dtype=np.float32)
    return MAP.build({"feature": np.arange(num_features), "x": x, "y": y, "cluster": np.arange(num_features) % 50})


def numbered(rows: pa.Table, start: int, num_features: int) -> pa.Table:
    """The same rows for other features: writing them takes as long, making them does not."""
    feature = np.repeat(np.arange(start, start + num_features), len(rows) // num_features)
    return rows.set_column(0, "feature", pa.array(feature, pa.int32()))


def word_lists(count: int, each: int, draw: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    """Lists of tokens as common as those of a text, by id and as they read."""
    vocabulary = pa.array([f" tok{number}" for number in range(50_257)])
    ids = pa.array((draw.zipf(1.3, count) % len(vocabulary)).astype(np.int32))
    offsets = pa.array(np.arange(0, count + 1, each), pa.int32())
    return pa.ListArray.from_arrays(offsets, ids), pa.ListArray.from_arrays(offsets, vocabulary.take(ids))


def make_explanations(store: Store, features: Artifact) -> Artifact:
    """A program of one condition, and a set of tokens, of every feature, in blocks as explain writes them."""
    num_features = FeatureSet(features).num_features

    def build(draft: Draft) -> Summary:
        for table, explainer in ((EXPLANATIONS, "program"), (TOKEN_SETS, "token-set")):
            with draft.stage(table.name) as path, writing(path, table) as writer:
                for first in range(0, num_features, BLOCK):
                    with draft.stage_work("block.parquet") as part:
                        write_explanations(part, (program(each, explainer) for each in range(first, first + BLOCK)))
                    writer.write_table(pa.parquet.read_table(draft.work_file("block.parquet")))
        labels = {"feature": range(num_features), "label": [f"tokens {each}" for each in range(num_features)]}
        with draft.stage(LABELS.name) as path, writing(path, LABELS) as writer:
            writer.write_table(LABELS.build({**labels, "explainer": ["program"] * num_features}))
        content = {"explainers": {"program": {"explained": num_features}}, "searched": {}}
        draft.write(SUMMARY_NAME, json.dumps(content).encode())
        return {"features": num_features}

    recipe = Recipe(kind="explanations", config={"program": {"threshold": 0.2}}, inputs={"features": features.ref})
    return produce(store, recipe, "explain", build).artifact


def program(feature: int, explainer: str) -> Explanation:
    tokens = tuple((feature * 7 + place * 11) % 300 for place in range(5))
    branch = Branch(conditions=(Member(column="current", tokens=tokens),), value=1.0)
    text = f"Fires on one of {tokens}."
    made = Program(branches=(branch,)).to_json()
    return Explanation(feature=feature, explainer=explainer, text=text, label=f"tokens {feature}", program=made)


class Clerk:
    """A language model that answers at once."""

    model = "clerk"

    def __init__(self) -> None:
        self.spending = Spending()

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Every text fits, and every feature is about some tokens."""
        for request in requests:
            judges = isinstance(request, Chat) and "JSON list" in request.system
            count = request.prompt.count("\nText ") if isinstance(request, Chat) else 0
            explanation = '{"feature": 1, "explanation": "some tokens", "label": "tokens"}'
            yield Reply(text=json.dumps([1] * count) if judges else explanation)


@contextmanager
def clerk() -> Iterator[Clerk]:
    yield Clerk()


def run_step(name: str, store: Store, uri: str, source: SubjectSource) -> None:
    """One step; prints processor seconds and the most memory that was used at once."""
    judge = JudgeSource({"model": "clerk"}, clerk)
    started = time.process_time()
    if name == "explain":
        config = ExplainConfig(explainers=("max-activating",), block_features=BLOCK)
        explain(store, open_artifact(store, uri, "features"), source, CPU, config, judge=judge)
    else:
        examples = ExamplesConfig(num_active=3, num_random=2, num_hard_negatives=1)
        config = ScoreConfig(scorers=("program", "detection"), resamples=20, block_features=BLOCK, examples=examples)
        score(store, open_artifact(store, uri, "explanations"), source, CPU, config, judge=judge)
    seconds = time.process_time() - started
    sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak_bytes()}) + "\n")


def in_process(name: str, folder: Path, uri: str, model: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.many_features", "--step", name, "--folder", str(folder)]
    command += ["--uri", uri, "--model", str(model)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def looking_rows(artifacts: tuple[Artifact, ...], num_features: int, clock: Clock) -> list[Row]:
    """One feature, with the footers to be read and without, and pages."""

    def milliseconds(action: Callable[[], object]) -> float:
        return reporting.timed(action, clock) * 1e3

    size = f"{num_features:,} features"
    draw = np.random.default_rng(1)
    for artifact in artifacts:
        for path in artifact.paths():
            artifact.file(path)  # checked before, as a server does at its start
    chosen = draw.choice(num_features, LOOKS, replace=False).tolist()
    cold = [milliseconds(lambda each=each: look(FeatureSet(artifacts[0]), each)) for each in chosen]
    found = FeatureSet(*artifacts)
    for start in range(0, num_features, FEATURES_OF_GROUP * GROUPS_OF_FILE):
        look(found, start)
    warm = [milliseconds(lambda each=each: look(found, each)) for each in chosen]
    told = [milliseconds(lambda each=each: (found.explanations(each), found.scores(each))) for each in chosen]
    fresh = FeatureSet(*artifacts)
    pages = [milliseconds(lambda: page(fresh, draw.random())) for _ in range(LOOKS)]
    by_score = FeatureSet(*artifacts)
    scored = milliseconds(lambda: by_score.page(order=[("score", "descending")]))
    feature_ms, first_ms, page_ms = statistics.median(warm), pages[0], statistics.median(pages)
    what = "row, contexts and neighbours of a feature"
    return [
        row(f"{what}, median", round(feature_ms, 1), "ms", size, FEATURE_MS, feature_ms <= FEATURE_MS),
        row(f"{what}, no footer read before, median", round(statistics.median(cold), 1), "ms", size),
        row("explanations and scores of a feature, median", round(statistics.median(told), 1), "ms", size),
        row("page, filtered and sorted, the first", round(first_ms, 1), "ms", size, PAGE_MS, first_ms <= PAGE_MS),
        row("page, filtered and sorted, median", round(page_ms, 1), "ms", size, PAGE_MS, page_ms <= PAGE_MS),
        row("page, sorted by score, the first", round(scored, 1), "ms", size, PAGE_MS, scored <= PAGE_MS),
    ]


def look(found: FeatureSet, feature: int) -> None:
    found.row(feature), found.contexts(feature), found.neighbours(feature)


def page(found: FeatureSet, share: float) -> None:
    where = [Condition("density", ">", share * 0.01), Condition("label", "contains", "7")]
    found.page(where, [("coherence", "descending")], offset=100, limit=50)


def step_rows(measured: dict[str, dict[int, dict[str, float]]]) -> list[Row]:
    """Time of a feature and memory, and both against the fewest features."""
    rows = []
    for name, by_size in measured.items():
        fewest = min(by_size)
        least = {key: by_size[fewest][key] for key in ("seconds", "peak")}
        for size, each in by_size.items():
            us, gib = each["seconds"] / size * 1e6, each["peak"] / 2**30
            grown = us / (least["seconds"] / fewest * 1e6)
            more = each["peak"] / least["peak"]
            against = f"{size:,} features"
            rows.append(row(f"{name}, processor time of a feature", round(us), "us", against))
            rows.append(row(f"{name}, peak memory", round(gib, 2), "GiB", against))
            if size > fewest:
                against += f", {fewest:,} features"
                rows.append(row(f"{name}, time of a feature", round(grown, 2), "x", against, FLAT, grown <= FLAT))
                rows.append(row(f"{name}, peak memory", round(more, 2), "x", against, FLAT, more <= FLAT))
    return rows


def measure(folder: Path, sizes: list[int], clock: Clock) -> list[Row]:
    run = make_llama_run(folder)
    rows: list[Row] = []
    measured: dict[str, dict[int, dict[str, float]]] = {"explain": {}, "score": {}}
    for size in sizes:
        features = make_features(run, size)
        explanations = make_explanations(run.store, features)
        for name, artifact in (("explain", features), ("score", explanations)):
            measured[name][size] = in_process(name, folder, artifact.uri, folder / "model")
            sys.stderr.write(f"{name}, {size:,} features: {measured[name][size]}\n")
        rows += looking_rows((features, explanations, scores_of(run.store, explanations)), size, clock)
        shutil.rmtree(folder / "store" / features.uri)  # by far the largest
    return rows + step_rows(measured)


def scores_of(store: Store, explanations: Artifact) -> Artifact:
    """What was just published of these explanations."""
    uris = {name.rsplit("/", 1)[0] for name in store.list("scores") if name.endswith("/manifest.json")}
    found = [open_artifact(store, uri, "scores") for uri in sorted(uris)]
    return next(each for each in found if each.manifest.inputs["explanations"].digest == explanations.digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of features")
    for hidden in ("--step", "--folder", "--uri", "--model"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--processor-time", action="store_true", help="for looks too, where the machine is busy")
    options: Any = parser.parse_args()
    if options.step:
        store = open_store(str(Path(options.folder) / "store"))
        run_step(options.step, store, options.uri, resolve_source(options.model))
        return
    with tempfile.TemporaryDirectory() as folder:
        clock = time.process_time if options.processor_time else time.perf_counter
        rows = measure(Path(folder), sorted(options.sizes), clock)
    used = reporting.versions("pyarrow")
    title = "many features" + (", processor time" if options.processor_time else "")
    reporting.publish("many_features", title, rows, reporting.describe_machine(), used)


if __name__ == "__main__":
    main()
