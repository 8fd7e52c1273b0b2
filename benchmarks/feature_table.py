"""What looking at features takes where there are a million of them: time from cold files, and memory.

Run as ``python -m benchmarks.feature_table``; makes up what find, explain and score would publish of so many features,
each with 8 contexts of 33 tokens, 20 neighbours, 3 explanations and 12 figures: about 4 GB for a million, in a folder
that is removed afterwards. Prints a table and writes ``build/bench/feature_table.json``.

Before each look at a feature the kernel is told to drop what it holds of all files (``posix_fadvise``), and the
feature set is opened anew, so that no footer is in memory. Files were checked against their hashes before, once a
process, as a server does while it starts. Of each look the processor's time is told too: what a machine that does
nothing else would need but for its disk. Memory is the most that a process of its own held; ``--sizes`` takes other
numbers of features, of which the memory is compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import reporting
from benchmarks.peak_memory import peak_bytes
from benchmarks.reporting import Row, row
from mistudio.artifacts import Artifact, open_artifact, open_store
from mistudio.artifacts.scratch import scratch_folder
from mistudio.features import Condition, FeatureSet
from mistudio.features.columns import FOLDER
from tests.support.feature_tables import label_of, publish_feature_tables

SIZES = (100_000, 1_000_000)
LOOKS, PAGES = 100, 20
FEATURE_MS, PAGE_MS, FLAT = 10, 300, 1.1
KINDS = ("features", "explanations", "scores")
LOOK: dict[str, Callable[[FeatureSet, int], object]] = {
    "record": FeatureSet.row,
    "explanations": FeatureSet.explanations,
    "scores": FeatureSet.scores,
    "contexts": FeatureSet.contexts,
    "neighbours": FeatureSet.neighbours,
    "all together": lambda found, feature: [look(found, feature) for name, look in LOOK.items() if " " not in name],
}


def make(folder: Path, num_features: int) -> list[str]:
    """Publish a feature set in a store of its own; return the artifacts' URIs."""
    store = open_store(str(folder / str(num_features)))
    found = publish_feature_tables(store, num_features)
    return [each.uri for each in (found.artifact, found.explained, found.scored) if each is not None]


def opened(folder: Path, num_features: int, uris: Iterable[str]) -> list[Artifact]:
    store = open_store(str(folder / str(num_features)))
    return [open_artifact(store, uri, kind) for uri, kind in zip(uris, KINDS, strict=True)]


def check_files(artifacts: Iterable[Artifact]) -> list[Path]:
    """Check all files, as a server does before it is ready; return where they are."""
    return [artifact.file(path) for artifact in artifacts for path in artifact.paths()]


def drop(paths: Iterable[Path]) -> None:
    """Let the kernel forget what it holds of these files."""
    for path in paths:
        number = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)


def look_rows(artifacts: list[Artifact], files: list[Path], num_features: int) -> list[Row]:
    """Each look by itself and all together, from cold files."""
    draw = np.random.default_rng(0)
    rows = []
    os.sync()  # the kernel keeps what is not on the disk yet
    for name, look in LOOK.items():
        taken, computed = [], []
        for feature in draw.choice(num_features, LOOKS, replace=False).tolist():
            drop(files)
            started = time.process_time()
            taken.append(milliseconds(lambda feature=feature, look=look: look(FeatureSet(*artifacts), feature)))
            computed.append((time.process_time() - started) * 1e3)
        rows += _look_rows(name, taken, computed, size(num_features))
    warm = FeatureSet(*artifacts)
    again = [milliseconds(lambda: LOOK["all together"](warm, 7)) for _ in range(LOOKS)]
    rows.append(row("all together, again, median", round(statistics.median(again), 2), "ms", size(num_features)))
    return rows


def _look_rows(name: str, taken: list[float], computed: list[float], against: str) -> list[Row]:
    median, high = statistics.median(taken), float(np.quantile(taken, 0.95))
    processor = statistics.median(computed)
    return [
        row(f"{name}, cold, median", round(median, 2), "ms", against, FEATURE_MS, median <= FEATURE_MS),
        row(f"{name}, cold, 95th percentile", round(high, 2), "ms", against, FEATURE_MS, high <= FEATURE_MS),
        row(f"{name}, cold, processor's time, median", round(processor, 2), "ms", against),
    ]


def page_rows(artifacts: list[Artifact], num_features: int) -> list[Row]:
    """Pages: the first of all, whose columns are made, the first of a process, and others."""
    made = milliseconds(lambda: any_page(FeatureSet(*artifacts), 0.5))
    rows = [row("page, the first on this machine: columns are made", round(made / 1e3, 2), "s", size(num_features))]
    columns = list((scratch_folder(artifacts[0].store) / FOLDER).glob("*.arrow"))
    draw = np.random.default_rng(1)
    kinds: dict[str, Callable[[FeatureSet], object]] = {
        "filtered by density and label, sorted by coherence": lambda found: any_page(found, float(draw.random())),
        "of all features, sorted by score": lambda found: found.page(order=[("score", "descending")]),
        "found by a part of an explanation": lambda found: found.page([Condition("text", "contains", "WORD77 ")]),
    }
    for name, page in kinds.items():
        page(FeatureSet(*artifacts))
        os.sync()
        cold = []
        for _ in range(PAGES):
            drop(columns)
            cold.append(milliseconds(lambda page=page: page(FeatureSet(*artifacts))))
        for which, value in (("median", statistics.median(cold)), (f"slowest of {PAGES}", max(cold))):
            holds = value <= PAGE_MS
            rows.append(row(f"page, {name}, cold, {which}", round(value), "ms", size(num_features), PAGE_MS, holds))
    used = sum(path.stat().st_size for path in (scratch_folder(artifacts[0].store) / FOLDER).glob("*.arrow"))
    return [*rows, row("columns on the disk", round(used / 2**20), "MiB", size(num_features))]


def any_page(found: FeatureSet, share: float) -> None:
    where = [Condition("density", ">", share), Condition("label", "contains", "7")]
    found.page(where, [("coherence", "descending")], offset=100, limit=50)


def memory_of_looks(artifacts: list[Artifact], num_features: int) -> dict[str, int]:
    """The most memory that looks and pages take, over what is held before."""
    check_files(artifacts)
    before = peak_bytes()
    found = FeatureSet(*artifacts)
    for feature in np.random.default_rng(2).choice(num_features, 3 * LOOKS, replace=False).tolist():
        LOOK["all together"](found, feature)
        if found.label(feature) != label_of(feature):
            raise AssertionError(feature)
    looks = peak_bytes()
    for share in np.linspace(0, 0.9, PAGES).tolist():
        any_page(found, share)
        found.page(order=[("score", "descending")])
    return {"before": before, "looks": looks, "pages": peak_bytes()}


def measured_memory(folder: Path, num_features: int, uris: list[str]) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.feature_table", "--memory", str(folder), str(num_features), *uris]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return measured


def memory_rows(measured: dict[int, dict[str, int]]) -> list[Row]:
    """What looks and pages add to the memory of a process, and how it grows with the features."""
    rows = []
    fewest, most = min(measured), max(measured)
    for num_features, each in measured.items():
        mib = (each["pages"] - each["before"]) / 2**20
        rows.append(
            row("memory of looks", round((each["looks"] - each["before"]) / 2**20, 1), "MiB", size(num_features))
        )
        rows.append(row("memory of looks and pages", round(mib, 1), "MiB", size(num_features)))
        rows.append(row("memory of the process", round(each["pages"] / 2**20), "MiB", size(num_features)))
    if most > fewest:
        grown = measured[most]["pages"] / measured[fewest]["pages"]
        against = f"{size(most)}, {size(fewest)}"
        rows.append(row("memory of the process", round(grown, 3), "x", against, FLAT, grown <= FLAT))
    return rows


def milliseconds(action: Callable[[], object]) -> float:
    return reporting.timed(action, time.perf_counter) * 1e3


def size(num_features: int) -> str:
    return f"{num_features:,} features"


def measure(folder: Path, sizes: list[int]) -> list[Row]:
    made = {each: make(folder, each) for each in sizes}
    most = sizes[-1]
    artifacts = opened(folder, most, made[most])
    stored = sum(artifact.manifest.num_bytes for artifact in artifacts)
    rows = [row("tables on the disk", round(stored / 2**30, 2), "GiB", size(most))]
    files = check_files(artifacts)
    rows += look_rows(artifacts, files, most)
    rows += page_rows(artifacts, most)
    for each in sizes[:-1]:
        any_page(found := FeatureSet(*opened(folder, each, made[each])), 0.5)
        found.page(order=[("score", "descending")])  # the columns are made
    return rows + memory_rows({each: measured_memory(folder, each, made[each]) for each in sizes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of features")
    parser.add_argument("--memory", nargs="+", help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.memory:
        folder, num_features, *uris = options.memory
        artifacts = opened(Path(folder), int(num_features), uris)
        sys.stdout.write(json.dumps(memory_of_looks(artifacts, int(num_features))) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), sorted(options.sizes))
    title = "features as a read model"
    load = f"; load average {os.getloadavg()[0]:.1f} at the end"
    reporting.publish("feature_table", title, rows, reporting.describe_machine() + load, reporting.versions("pyarrow"))


if __name__ == "__main__":
    main()
