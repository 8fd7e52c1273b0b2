"""What find's pass costs: beside forward and encoding alone, beside delphi's cache, and in memory at 131,072 features.

Run as ``python -m benchmarks.find --store STORE`` with a store that ``mistudio demo`` and ``mistudio run interpret``
have filled; takes the newest autoencoder in it. Prints a table and writes ``build/bench/find.json``.

The pass is measured live: texts go through the model as far as the hook, are encoded, and are searched; and over
captured activations, as find does it behind capture. delphi
(``pip install eai-delphi==0.1.3`` into the same environment; without it its rows are left out, and it says so) gets
the same tokens in batches of as many sequences, the same autoencoder written as its documents have it, and saves its
cache in ten splits. Both end with files on the disk; ours are all tables of find.

``--processor-time`` counts processor time instead of the clock, for a machine that is busy.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import reporting
from benchmarks.peak_memory import peak_bytes
from benchmarks.reporting import Row, row
from mistudio.activations import ActivationReader, CaptureConfig
from mistudio.activations.passes import CorpusPasses
from mistudio.artifacts import Artifact, Store, open_artifact, open_input, open_store
from mistudio.corpus.reader import TokenCorpus
from mistudio.find import FindConfig
from mistudio.find.search import STATE_NAME, Search
from mistudio.sae import ActiveLatents, SparseAutoencoder, activation_std_of, hook_of, load_autoencoder
from mistudio.subject import Subject, SubjectConfig, artifact_source, load_subject

SEQUENCES = 32  # of a batch
BATCHES_OF_CHUNK = 16
WIDE = 131_072
SPLITS = 10

Clock = Callable[[], float]
Meta = dict[str, np.ndarray]


class Bench:
    """A model, an autoencoder of it, and a corpus, cut to whole sequences of full length."""

    def __init__(self, store: Store, sae: Artifact) -> None:
        activations = open_input(store, sae.manifest.inputs["activations"], "activations")
        self.corpus = TokenCorpus(open_input(store, activations.manifest.inputs["corpus"], "corpus"))
        source = artifact_source(open_artifact(store, activations.manifest.inputs["subject"].uri, "subject"))
        self.subject: Subject = load_subject(source, SubjectConfig(device="cpu"))
        self.sae: SparseAutoencoder = load_autoencoder(sae)
        self.hook, self.activation_std = hook_of(sae), activation_std_of(sae)
        self.reader = ActivationReader(activations, self.hook, "train")
        self.passes = CorpusPasses(self.subject, self.corpus, [self.hook], CaptureConfig(hooks=(self.hook,)))
        lengths = self.corpus.lengths("train")
        self.full = np.flatnonzero(lengths == self.corpus.context_length)

    def chunks(self, num_sequences: int) -> Iterator[tuple[ActiveLatents, Meta]]:
        """Forward and encode."""
        at_once = SEQUENCES * BATCHES_OF_CHUNK
        for first in range(0, num_sequences, at_once):
            chosen = self.full[first : min(first + at_once, num_sequences)]
            batches = [chosen[start : start + SEQUENCES] for start in range(0, len(chosen), SEQUENCES)]
            rows = [self.passes.rows("train", batch) for batch in batches]
            acts_ND = torch.cat([next(iter(each.acts.values())) for each in rows]).float()
            meta = {name: np.concatenate([each.meta[name] for each in rows]) for name in rows[0].meta}
            yield self.sae.encode_active(acts_ND), meta

    def stored_chunks(self, num_sequences: int) -> Iterator[tuple[ActiveLatents, Meta]]:
        """Read and encode as many rows as so many sequences have."""
        num_rows = num_sequences * (self.corpus.context_length - 1)
        for shard in range(len(self.reader.shards)):
            for start, stop in self.reader.chunks(shard, FindConfig().chunk_rows):
                if start < num_rows:
                    acts_ND = self.reader.acts(start, min(stop, num_rows)).float()
                    yield self.sae.encode_active(acts_ND), self.reader.meta(start, min(stop, num_rows))

    def search(self, num_sequences: int) -> Search:
        """An empty search for so many sequences."""
        num_rows = num_sequences * (self.corpus.context_length - 1)
        return Search(self.sae.width, self.activation_std, num_rows, self.corpus, FindConfig(), seed=0)

    def encode_dense(self, x_BTD: Tensor) -> Tensor:
        """What delphi asks for: all latents of each token."""
        pre_BTF = torch.nn.functional.linear(x_BTD, self.sae.W_enc, self.sae.b_enc)
        top = pre_BTF.topk(int(self.sae.config.k), dim=-1, sorted=False)  # type: ignore[attr-defined]
        return torch.zeros_like(pre_BTF).scatter_(-1, top.indices, top.values.relu())


def share_rows(bench: Bench, num_sequences: int, clock: Clock) -> list[Row]:
    """Time of forward and encoding over that of the whole pass, at the end and on the way."""
    search, alone_s, rest_s, rows = bench.search(num_sequences), 0.0, 0.0, []
    chunks = bench.chunks(num_sequences)
    next(bench.chunks(num_sequences))  # warm up
    done = 0
    while True:
        started = clock()
        chunk = next(chunks, None)
        alone_s += clock() - started
        if chunk is None:
            break
        started = clock()
        search.update(*chunk)
        rest_s += clock() - started
        done += len(chunk[1]["document"])
    share = round(alone_s / (alone_s + rest_s), 3)
    detail = f"{alone_s / done * 1e6:.1f} + {rest_s / done * 1e6:.1f} us a token, {done:,} tokens"
    rows.append(row("speed of the pass, of forward and encoding alone", share, "x", detail, 0.9, share >= 0.9))
    return rows


def delphi_rows(bench: Bench, num_sequences: int, pairs: int, clock: Clock, tables_bytes: int) -> list[Row]:
    """The same tokens through delphi's cache, in turns with ours."""
    what = "pass with its files written"
    if importlib.util.find_spec("delphi") is None:
        return [row(what, None, "x", "delphi is not installed")]
    from delphi.latents.cache import LatentCache  # type: ignore[import-not-found]

    ids = np.stack([bench.corpus.sequence("train", int(number)).token_ids for number in bench.full[:num_sequences]])
    tokens = torch.from_numpy(ids.astype(np.int64))
    block = bench.subject.blocks[int(bench.hook.split(".")[1])]
    (module,) = [name for name, each in bench.subject.model.named_modules() if each is block]
    folder = Path(tempfile.mkdtemp())

    def theirs() -> None:
        cache = LatentCache(bench.subject.model, {module: bench.encode_dense}, batch_size=SEQUENCES)
        cache.run(tokens.numel(), tokens)
        cache.save_splits(SPLITS, folder / "delphi", save_tokens=True)

    def ours(chunks: Callable[[int], Iterator[tuple[ActiveLatents, Meta]]]) -> None:
        search = bench.search(num_sequences)
        for active, meta in chunks(num_sequences):
            search.update(active, meta)
        save(search, folder / STATE_NAME)

    times = reporting.paired(partial(ours, bench.chunks), theirs, pairs, clock=clock)
    stored_times = reporting.paired(partial(ours, bench.stored_chunks), theirs, pairs, clock=clock)
    theirs_bytes = sum(path.stat().st_size for path in (folder / "delphi").rglob("*.safetensors"))
    state_bytes = (folder / STATE_NAME).stat().st_size
    shutil.rmtree(folder)
    name = f"delphi's cache, {tokens.numel():,} tokens"
    per_token = theirs_bytes / tokens.numel()
    whole_bytes = per_token * bench.corpus.statistics.splits["train"].tokens
    ratio = round(tables_bytes / whole_bytes, 3)
    sizes = f"{tables_bytes / 2**20:.1f} MiB to {whole_bytes / 2**20:.1f} MiB ({per_token:.0f} bytes a token)"
    return [
        *reporting.speed_rows(what, times, name, 3.0),
        *reporting.speed_rows(f"{what}, over captured activations", stored_times, name, 3.0),
        row(
            "all tables of find, disk, against delphi's cache of the same corpus", ratio, "x", sizes, 0.5, ratio <= 0.5
        ),
        row("state of the pass, disk", round(state_bytes / 2**20, 1), "MiB", "while it runs, whatever the tokens"),
    ]


def save(search: Search, path: Path) -> None:
    """As find does after each shard."""
    from safetensors.torch import save_file

    save_file(search.state_dict(), path)


def memory_rows(store: str, uri: str) -> list[Row]:
    """Peak memory of a pass over random activations of 131,072 features, and of a part put to it."""
    command = [sys.executable, "-m", "benchmarks.find", "--store", store, "--sae", uri, "--wide"]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    gib = round(peak / 2**30, 2)
    what = "peak memory of a pass and a part put to it, 131,072 features, 64 active a token"
    return [row(what, gib, "GiB", "", 8, gib < 8)]


def wide_pass(corpus: TokenCorpus) -> None:
    """Search random activations of many features; prints the most memory that was used at once."""
    rng = np.random.default_rng(0)
    searches = []
    for part in range(2):
        search = Search(WIDE, 1.0, 1 << 20, corpus, FindConfig(), seed=0)
        for number in range(2):
            search.update(*_random_chunk(rng, 2 * part + number))
        searches.append(search)
    searches[0].merge(searches[1].state_dict())
    sys.stdout.write(f"{peak_bytes()}\n")


def _random_chunk(rng: np.random.Generator, number: int) -> tuple[ActiveLatents, Meta]:
    rows, active = FindConfig().chunk_rows, 64
    feature_NK = np.sort(rng.integers(0, WIDE // active, (rows, active)) + np.arange(active) * (WIDE // active), axis=1)
    token_A = np.repeat(np.arange(rows), active)
    value_A = rng.random(rows * active, dtype=np.float32) + 0.01
    pairs = (torch.from_numpy(column) for column in (token_A, feature_NK.ravel(), value_A))
    sequence = (np.arange(rows) // 128 + number * (rows // 128)).astype(np.int32)
    meta = {"document": sequence // 4, "sequence": sequence, "position": (np.arange(rows) % 128).astype(np.int32)}
    return ActiveLatents(*pairs), {**meta, "token_id": np.zeros(rows, np.int32)}


def newest(store: Store, kind: str, **inputs: str) -> Artifact | None:
    """The artifact of a kind that was made last, of all with these inputs."""
    uris = {name.rsplit("/", 1)[0] for name in store.list(kind) if name.endswith("/manifest.json")}
    found = [open_artifact(store, uri, kind) for uri in sorted(uris)]
    found = [each for each in found if all(each.manifest.inputs[name].uri == uri for name, uri in inputs.items())]
    return max(found, key=lambda each: each.manifest.created_at, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="build/store")
    parser.add_argument("--sae", default="", help="autoencoder in the store; by default the newest")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--sequences", type=int, default=512, help="for delphi, which holds all in memory")
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--wide", action="store_true", help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    store = open_store(options.store)
    sae = open_artifact(store, options.sae, "sae") if options.sae else newest(store, "sae")
    if sae is None:
        sys.exit(f"{options.store} holds no autoencoder: run mistudio demo and mistudio run interpret first.")
    bench = Bench(store, sae)
    if options.wide:
        wide_pass(bench.corpus)
        return
    features = newest(store, "features", sae=sae.uri)
    tables_bytes = features.manifest.num_bytes if features else 0
    clock = time.process_time if options.processor_time else time.perf_counter
    rows = [
        *share_rows(bench, len(bench.full), clock),
        *delphi_rows(bench, options.sequences, options.pairs, clock, tables_bytes),
        *memory_rows(options.store, sae.uri),
    ]
    title = f"find, {bench.sae.width:,} features of {bench.hook}"
    title += ", processor time" if options.processor_time else ""
    reporting.publish("find", title, rows, reporting.describe_machine(), reporting.versions("transformers"))


if __name__ == "__main__":
    main()
