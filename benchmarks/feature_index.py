"""Searching decoder directions: what share of the nearest features an index finds, how fast, and in what memory.

Run as ``python -m benchmarks.feature_index``; prints a table and writes ``build/bench/feature_index.json``. Decoders
are made up, since public ones of these sizes are gigabytes:

* ``random``: directions without any structure, the hardest case: the tenth neighbour is hardly nearer than the
  thousandth;
* ``structured``: as decoders are. Dimensions of unequal size with a few outliers, a third of the features in topics,
  one in twenty with a near-duplicate, one in ten with another absorbed into it; the rest nearly orthogonal. The
  encoder is the decoder with noise.

``--sae`` takes a real one from a store instead. Each index is made by the step, in a process of its own, whose peak of
anonymous memory is told: pages of the mapped weights are not in it. Latency is of one query at a time, as a server
asks, in turns with brute force. It is told by the clock, and by the processor's time of this process: what it waits for
the machine's other work is not in that.

``--kinds`` takes other kinds of index; ``--contenders`` measures other codes of faiss instead, of the first size.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import reporting
from benchmarks.reporting import Row, row
from mistudio.artifacts import Artifact, Draft, Recipe, Store, Summary, open_artifact, open_store, produce
from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.decoder_rows import mapped_decoder, mapped_encoder
from mistudio.correlate.index.directions_index import DirectionIndex, ExactIndex, open_index
from mistudio.correlate.index.queries import sample_queries, unit
from mistudio.correlate.index.step import index as make_index
from mistudio.sae.files import WEIGHTS_NAME

SIZES, WIDTH = (131_072, 1_000_000), 768
RECALL, P99_MS = 0.99, 2
BLOCK = 65_536
TIMED, FLAT_EVERY = 1_000, 10
MOST_CANDIDATES = 8_192  # of a contender
BYTES_OF_MIB = 1 << 20

Vectors = NDArray[np.float32]


class Latency(NamedTuple):
    """Milliseconds of single queries."""

    wall_ms: list[float]
    processor_ms: list[float]


def random_block(count: int, width: int, draw: np.random.Generator, _topics: Vectors) -> Vectors:
    return unit(draw.standard_normal((count, width), dtype=np.float32))


def structured_block(count: int, width: int, draw: np.random.Generator, topics_GD: Vectors) -> Vectors:
    """Directions as decoders have them; what the parts are is said above."""
    rows_FD = unit(draw.standard_normal((count, width), dtype=np.float32) * sizes(width))
    topical, paired, absorbing = np.split(draw.permutation(count), np.cumsum([count // 3, count // 20]))
    absorbing, rest = np.split(absorbing, [count // 10])
    rows_FD[topical] = unit(rows_FD[topical] + 0.7 * topics_GD[draw.integers(0, len(topics_GD), len(topical))])
    rows_FD[paired] = unit(rows_FD[draw.choice(topical, len(paired))] + 0.3 * rows_FD[paired])
    rows_FD[absorbing] = unit(rows_FD[absorbing] + 0.6 * rows_FD[draw.choice(rest, len(absorbing))])
    return rows_FD


def sizes(width: int) -> Vectors:
    """How large each dimension of the residual stream is: a power law, and four outliers."""
    draw = np.random.default_rng(5)
    size_D = (1 + np.arange(width)) ** -0.25
    size_D[:4] *= 8
    return draw.permutation(size_D).astype(np.float32)


DECODERS: dict[str, Callable[..., Vectors]] = {"random": random_block, "structured": structured_block}


def publish_decoder(store: Store, name: str, num_features: int, width: int) -> Artifact:
    """An autoencoder's artifact with such a decoder, written block by block."""

    def matrices() -> Iterator[Iterator[Vectors]]:
        for noise in (0.0, 0.5):
            yield blocks(name, num_features, width, noise)

    def build(draft: Draft) -> Summary:
        with draft.stage(WEIGHTS_NAME) as path, path.open("wb") as file:
            file.write(header({"W_dec": (num_features, width), "W_enc": (num_features, width)}))
            for matrix in matrices():
                for block_FD in matrix:
                    file.write(block_FD.tobytes())
        return {}

    recipe = Recipe(kind="sae", config={"decoder": name, "features": num_features, "width": width}, inputs={})
    return produce(store, recipe, "benchmark", build).artifact


def blocks(name: str, num_features: int, width: int, noise: float) -> Iterator[Vectors]:
    topics_GD = unit(np.random.default_rng(1).standard_normal((num_features // 64, width)) * sizes(width))
    for first in range(0, num_features, BLOCK):
        draw = np.random.default_rng([2, first])
        rows_FD = DECODERS[name](min(BLOCK, num_features - first), width, draw, topics_GD)
        noise_FD = unit(draw.standard_normal(rows_FD.shape)) if noise else np.float32(0)
        yield (rows_FD + np.float32(noise) * noise_FD).astype(np.float32)


def header(shapes: dict[str, tuple[int, int]]) -> bytes:
    """Of a safetensors file, so that its content can be written as it is made."""
    content, start = {}, 0
    for name, shape in shapes.items():
        end = start + 4 * shape[0] * shape[1]
        content[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def run_step(store_url: str, uri: str, kind: str, bits: int) -> None:
    """Make an index; prints its URI, seconds, and the peak of anonymous memory, before and in all."""
    store = open_store(store_url)
    sae = open_artifact(store, uri, "sae")
    import faiss  # noqa: F401 -- libraries are in memory before the work is measured
    import torch  # noqa: F401

    mapped_decoder(sae)  # hashed before the work is timed
    with watched() as peak:
        before, started = anonymous_bytes(), time.monotonic()
        made = make_index(store, sae, IndexConfig(kind=kind, bits=bits)).artifact  # type: ignore[arg-type]
        seconds = time.monotonic() - started
    sys.stdout.write(json.dumps({"uri": made.uri, "s": seconds, "before": before, "peak": max(peak)}) + "\n")


@contextmanager
def watched() -> Iterator[list[int]]:
    """Anonymous memory of this process, looked at a hundred times a second."""
    seen, ended = [anonymous_bytes()], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            seen.append(anonymous_bytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def in_process(store: Store, sae: Artifact, kind: str, bits: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.feature_index", "--step", kind, "--store", store.url]
    done = subprocess.run([*command, "--sae", sae.uri, "--bits", str(bits)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(store: Store, sae: Artifact, name: str, kind: str, bits: int, timed: int) -> list[Row]:
    """Recall as the manifest has it, latency beside brute force, size and memory."""
    made = in_process(store, sae, kind, bits)
    artifact = open_artifact(store, made["uri"], "index")
    summary = artifact.manifest.summary
    decoder_FD = mapped_decoder(sae)
    num_features, width = decoder_FD.shape
    what = f"{name} {num_features:,} x {width}, {kind}" + (f" of {bits} bits" if kind in ("codes", "ivfpq") else "")
    rows = [
        row(
            f"{what}: {key.replace('.', ' of ')}",
            value,
            "",
            f"{summary[key.replace('recall_at_10', 'queries')]} queries",
        )
        for key, value in sorted(summary.items())
        if key.startswith("recall_at_10.")
    ]
    least = float(summary["recall_at_10"])  # type: ignore[arg-type]
    rows.append(row(f"{what}: recall at 10, worst kind", least, "", str(summary["kind"]), RECALL, least >= RECALL))
    rows += latency_rows(what, sae, open_index(artifact), timed)
    of_decoder = f"decoder: {decoder_FD.nbytes / BYTES_OF_MIB:,.0f}"
    grown = (made["peak"] - made["before"]) / BYTES_OF_MIB
    candidates = f"candidates {summary['candidates']}, breadth {summary['breadth']}"
    return [
        *rows,
        row(f"{what}: size", round(int(summary["bytes"]) / BYTES_OF_MIB, 1), "MiB", of_decoder),  # type: ignore[arg-type]
        row(f"{what}: made in", round(made["s"], 1), "s", candidates),
        row(f"{what}: memory beyond mapped files", round(grown), "MiB", of_decoder, "below", grown < decoder_FD.nbytes),
    ]


def latency_rows(what: str, sae: Artifact, found: DirectionIndex, timed: int) -> list[Row]:
    decoder_FD = mapped_decoder(sae)
    queries = sample_queries(decoder_FD, mapped_encoder(sae), -(-timed // 7), seed=11)
    query_ND = np.concatenate(list(queries.values()))
    query_ND = query_ND[np.random.default_rng(0).permutation(len(query_ND))]
    flat = ExactIndex(decoder_FD)
    ours, theirs = Latency([], []), Latency([], [])
    for place, query_D in enumerate(query_ND):
        time_query(found, query_D, ours if place >= FLAT_EVERY else None)
        if place % FLAT_EVERY == 0:
            time_query(flat, query_D, theirs if place >= FLAT_EVERY else None)
            time_query(found, query_D, None)  # brute force has taken the caches
    against = {part: f"flat: {quantiles(getattr(theirs, part))}" for part in Latency._fields}
    p99 = {part: round(float(np.quantile(getattr(ours, part), 0.99)), 3) for part in Latency._fields}
    return [
        row(f"{what}: one query, median", round(float(np.median(ours.wall_ms)), 3), "ms", against["wall_ms"]),
        row(
            f"{what}: one query, p99", p99["wall_ms"], "ms", against["wall_ms"], *asked(len(decoder_FD), p99["wall_ms"])
        ),
        row(
            f"{what}: one query, p99 of processor time",
            p99["processor_ms"],
            "ms",
            against["processor_ms"],
            *asked(len(decoder_FD), p99["processor_ms"]),
        ),
    ]


def asked(num_features: int, p99_ms: float) -> tuple[float | None, bool | None]:
    """What is asked of a query, and whether that holds; of larger decoders nothing is asked."""
    return (P99_MS, p99_ms <= P99_MS) if num_features <= SIZES[0] else (None, None)


def time_query(found: DirectionIndex, query_D: Vectors, times: Latency | None) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    found.search(query_D[None], 10)
    if times is not None:
        times.wall_ms.append((time.perf_counter() - wall) * 1e3)
        times.processor_ms.append((time.process_time() - processor) * 1e3)


def quantiles(times: list[float]) -> str:
    return f"{np.median(times):.2f}, p99 {np.quantile(times, 0.99):.2f}"


def contenders(name: str, num_features: int, width: int) -> Iterator[Row]:
    """Codes of faiss: candidates that find 0.99 of the nearest 10, and what a query of one thread then takes."""
    import faiss

    from mistudio.correlate.index.kinds import one_thread
    from mistudio.correlate.index.recall import known, recall_by_candidates

    product = faiss.METRIC_INNER_PRODUCT
    decoder_FD = np.concatenate(list(blocks(name, num_features, width, 0.0)))
    exact = ExactIndex(decoder_FD)
    asked = sample_queries(decoder_FD, None, 100, 3)
    queries = known(exact, {kind: asked[kind] for kind in ("random", "row_20")})
    made: dict[str, Callable[[], Any]] = {
        "sign bits, Hamming distance": lambda: SignBits(width),
        "RaBitQ, 1 bit": lambda: rabitq(width),
        "RaBitQ fast scan, 1 bit": lambda: faiss.IndexRaBitQFastScan(width, product, 32, 1),
        "RaBitQ fast scan, 2 bits": lambda: faiss.IndexRaBitQFastScan(width, product, 32, 2),
        "PQ fast scan, 1 bit": lambda: faiss.index_factory(width, f"RR{width},PQ{width // 4}x4fs", product),
        "PQ fast scan, 2 bits": lambda: faiss.index_factory(width, f"RR{width},PQ{width // 2}x4fs", product),
        "PQ fast scan, 4 bits": lambda: faiss.index_factory(width, f"RR{width},PQ{width}x4fs", product),
        "PQ fast scan, 2 bits, not rotated": lambda: faiss.index_factory(width, f"PQ{width // 2}x4fs", product),
    }
    for codes, make in made.items():
        with one_thread():
            index = make()
            index.train(decoder_FD[:32_768])
            index.add(decoder_FD)
            for kind, own in queries.items():
                recall_N = recall_by_candidates(index, exact, own, MOST_CANDIDATES)
                reached = bool(recall_N[-1] >= RECALL)
                needed = int((recall_N >= RECALL).argmax()) + 1 if reached else MOST_CANDIDATES
                times = [timed_once(index, exact, unit_D, needed) for unit_D in own.unit_QD]
                detail = f"{needed:,} candidates" + ("" if reached else f" find only {recall_N[-1]:.3f}")
                what = f"{name} {num_features:,} x {width}, {codes}, queries {kind}"
                yield row(what, round(float(np.median(times)), 2), "ms of a processor", detail)


def rabitq(width: int) -> Any:
    """One bit a dimension; the query has four, without which a scan takes half a second."""
    import faiss

    index = faiss.IndexRaBitQ(width, faiss.METRIC_INNER_PRODUCT, 1)
    index.qb = 4
    return index


class SignBits:
    """Which side of zero each dimension is on; faiss counts the dimensions in which two differ."""

    def __init__(self, width: int) -> None:
        import faiss

        self.index = faiss.IndexBinaryFlat(width)

    def train(self, _rows_FD: Vectors) -> None:
        """There is nothing to fit."""

    def add(self, rows_FD: Vectors) -> None:
        """Put rows in."""
        self.index.add(np.packbits(rows_FD > 0, axis=1))

    def search(self, query_QD: Vectors, count: int) -> Any:
        """Distances and numbers of the nearest rows."""
        return self.index.search(np.packbits(query_QD > 0, axis=1), count)


def timed_once(index: Any, exact: ExactIndex, unit_D: Vectors, candidates: int) -> float:
    started = time.process_time()
    found_N = index.search(unit_D[None], candidates)[1][0]
    exact.cosines(unit_D, np.sort(found_N[found_N >= 0])).argpartition(-10)
    return (time.process_time() - started) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sizes", default=",".join(map(str, SIZES)), help="features, with commas between them (default: %(default)s)")
    add("--width", type=int, default=WIDTH, help="components of a direction (default: %(default)s)")
    add("--kinds", default="auto", help="kinds of index, with commas between them (default: %(default)s)")
    add("--decoders", default=",".join(DECODERS), help="made up how (default: %(default)s)")
    add("--bits", type=int, default=2, help="of codes (default: %(default)s)")
    add("--queries", type=int, default=TIMED, help="that are timed (default: %(default)s)")
    add("--store", default="", help="store of --sae; also where made-up decoders go (default: a temporary folder)")
    add("--sae", default="", help="a real autoencoder of the store")
    add("--contenders", action="store_true", help="measure codes of faiss instead")
    add("--name", default="feature_index", help="of the file of rows (default: %(default)s)")
    add("--step", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        run_step(given.store, given.sae, given.step, given.bits)
        return
    rows = list(contended(given) if given.contenders else measured(given))
    machine = reporting.describe_machine()
    reporting.publish(given.name, "Search over decoder directions", rows, machine, reporting.versions("faiss-cpu"))


def contended(given: argparse.Namespace) -> Iterator[Row]:
    for name in given.decoders.split(","):
        yield from contenders(name, int(given.sizes.split(",")[0]), given.width)


def measured(given: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(given.store or folder)
        if given.sae:
            made = [("real", open_artifact(store, given.sae, "sae"))]
        else:
            asked = [(name, int(size)) for size in given.sizes.split(",") for name in given.decoders.split(",")]
            made = [(name, publish_decoder(store, name, size, given.width)) for name, size in asked]
        for name, sae in made:
            for kind in given.kinds.split(","):
                yield from measure(store, sae, name, kind, given.bits, given.queries)


if __name__ == "__main__":
    main()
