"""How fast activations are captured, written, read and served, and whether memory stays flat in tokens.

Run as ``python -m benchmarks.activations`` in the root of the checkout. Everything is compared in turns in one
process, except for memory, which each run measures in a process of its own. Prints a table and writes
``build/bench/activations.json``. Reads the model and texts beside the checkout (MISTUDIO_BENCH_DATA).

Shape legend: B sequences, T tokens, N rows, D width of a hook point.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import reporting, subjects
from benchmarks.reporting import Row, paired, row, speed_rows, timed
from mistudio.activations import ActivationReader, CaptureConfig, ShuffledBatches
from mistudio.activations.capturing import CaptureRun
from mistudio.activations.shards import META_COLUMNS, ShardFile, ShardWriter
from mistudio.artifacts import Artifact, Draft, Recipe, Store, Summary, open_store, produce
from mistudio.corpus.reader import SPLITS, TokenCorpus
from mistudio.subject import Subject, SubjectConfig, SubjectSource, load_subject, token_batch
from tests.support.indexed import index_shards

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
WIDTH = 512
SHARD_ROWS = 262_144
BUFFER_ROWS = 262_144
BATCH_ROWS = 4096
RUN_ROWS = 512  # what the shuffling buffer reads at once
FORWARD_ROWS = 4096  # rows of one forward pass: 32 sequences of 128 tokens
MEMORY_TOKENS = (150_000, 1_500_000)


def capture_rows(
    store: Store, source: SubjectSource, layer: int, max_tokens: int, pairs: int, folder: Path
) -> list[Row]:
    """Capture at a middle layer, against the forward pass alone over the same batches."""
    corpus = TokenCorpus(subjects.stories(store, source, folder, max_tokens))
    subject = load_subject(source, SubjectConfig(device="cpu", dtype="float32"))
    run = CaptureRun(subject, corpus, CaptureConfig(hooks=(f"resid_post.{layer}",)))
    batches = _batches(run, corpus, subject)
    truncated = _truncated(load_subject(source, SubjectConfig(device="cpu", dtype="float32")), layer + 1)
    numbers = itertools.count()

    def ours() -> None:
        run.run(Draft(store, f"activations/run-{next(numbers)}"))

    @torch.no_grad()
    def bare() -> None:
        for ids_BT in batches:
            truncated(input_ids=ids_BT)

    @torch.no_grad()
    def hooked() -> None:
        for ids_BT in batches:
            _full_with_hook(subject, layer, ids_BT)

    what = f"capture at layer {layer} of {subject.num_layers}, d {subject.d_model}, {len(batches)} batches"
    return [
        *speed_rows(what, paired(ours, bare, pairs), "bare truncated forward pass", 0.95),
        *speed_rows(what, paired(ours, hooked, pairs), "full forward pass with a hook", 1.5),
    ]


def _batches(run: CaptureRun, corpus: TokenCorpus, subject: Subject) -> list[Tensor]:
    """Token ids [B, T] of every forward pass of a capture."""
    plans = {split: run.plan(split) for split in SPLITS}
    return [
        token_batch(subject, corpus.batch(split, batch).token_ids).ids_BT
        for split, plan in plans.items()
        for shard in plan.shards
        for batch in plan.batches(shard)
    ]


def _truncated(subject: Subject, num_layers: int) -> nn.Module:
    """The first blocks of a Llama, without the norm and head behind them."""
    base: nn.Module = subject.model.model
    base.layers, base.norm = subject.blocks[:num_layers], nn.Identity()
    return base


def _full_with_hook(subject: Subject, layer: int, ids_BT: Tensor) -> None:
    kept: list[Tensor] = []
    handle = subject.blocks[layer].register_forward_hook(lambda _module, _args, out: kept.append(out.clone()))
    subject.model(input_ids=ids_BT)
    handle.remove()


def serving_rows(store: Store) -> list[Row]:
    """Shuffled rows from a full buffer, over a corpus four times as large; refills and epochs included."""
    artifact = _published(store, num_shards=4)
    torch.set_num_threads(1)
    batches = ShuffledBatches(ActivationReader(artifact, "resid_post.0", "train"), BATCH_ROWS, BUFFER_ROWS, seed=0)
    per_epoch = -(-len(batches) // BATCH_ROWS)

    def epoch() -> None:
        for _ in range(per_epoch):
            batches.next_batch()

    speeds = [len(batches) / timed(epoch) for _ in range(7)]
    torch.set_num_threads(THREADS)
    value = round(statistics.median(speeds))
    what = f"shuffled rows served, d {WIDTH}, buffer {BUFFER_ROWS:,} rows, one thread"
    return [
        row(what, value, "rows/s", f"median of 7 epochs of {len(batches):,} rows", 500_000, value >= 500_000),
        row(f"{what}, slowest epoch", round(min(speeds)), "rows/s"),
    ]


def shard_rows(folder: Path) -> list[Row]:
    """One shard written and read, against copies of its file; all in the page cache, and to the disk."""
    acts_ND = torch.randn(SHARD_ROWS, WIDTH, generator=torch.Generator().manual_seed(0)).half()
    meta = {name: np.arange(SHARD_ROWS, dtype=np.int32) for name in META_COLUMNS}
    shard, copy = folder / "shard.arrow", folder / "copy.arrow"
    rows_ND = torch.zeros_like(acts_ND)
    buffer = memoryview(bytearray(_write_shard(shard, acts_ND, meta)))

    def written() -> None:
        _write_shard(shard, acts_ND, meta)

    def copied() -> None:
        shutil.copyfile(shard, copy)

    def read() -> None:
        file = ShardFile(shard)
        for start in range(0, SHARD_ROWS, RUN_ROWS):
            rows_ND[start : start + RUN_ROWS] = file.acts(start, start + RUN_ROWS)
        for name in META_COLUMNS:
            file.meta(name, 0, SHARD_ROWS)

    def plain_read() -> None:
        with shard.open("rb", buffering=0) as file:
            file.readinto(buffer)

    def synced(action: Callable[[], None], path: Path) -> None:
        action()
        with path.open("rb") as file:
            os.fsync(file.fileno())

    size = f"{shard.stat().st_size / 1e6:.0f} MB, d {WIDTH}"
    return [
        *speed_rows(f"shard written, {size}", _renewed(written, copied, (shard, copy), 9), "file copy", 0.8),
        *speed_rows(
            f"shard written and on the disk, {size}",
            _renewed(lambda: synced(written, shard), lambda: synced(copied, copy), (shard, copy), 5),
            "file copy on the disk",
        ),
        *speed_rows(f"shard read, {size}", _renewed(read, copied, (copy,), 9), "file copy", 0.8),
        *speed_rows(f"shard read, {size}", paired(read, plain_read, 9), "file read into memory"),
    ]


def _renewed(
    ours: Callable[[], None], theirs: Callable[[], None], outputs: tuple[Path, ...], pairs: int
) -> reporting.Paired:
    """Time two that write files, each of which is removed before it is written again; that is not timed."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs + 1):
        for path in outputs:
            path.unlink(missing_ok=True)
        for action, seconds in zip((ours, theirs), times, strict=True):
            seconds.append(timed(action))
    return reporting.Paired(times[0][1:], times[1][1:])


def _write_shard(path: Path, acts_ND: Tensor, meta: dict[str, np.ndarray]) -> int:
    """Write rows as capture hands them over: already narrow, a forward pass at a time."""
    with ShardWriter(path, WIDTH, "float16") as writer:
        for start in range(0, len(acts_ND), FORWARD_ROWS):
            stop = start + FORWARD_ROWS
            writer.append_narrow(acts_ND[start:stop], {name: column[start:stop] for name, column in meta.items()})
    return path.stat().st_size


def _published(store: Store, num_shards: int) -> Artifact:
    block_ND = torch.randn(FORWARD_ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    meta = {name: np.zeros(FORWARD_ROWS, dtype=np.int32) for name in META_COLUMNS}

    def build(draft: Draft) -> Summary:
        for number in range(num_shards):
            with (
                draft.stage(f"resid_post.0/train/shard-{number:05d}.arrow") as path,
                ShardWriter(path, WIDTH, "float16") as writer,
            ):
                for _ in range(SHARD_ROWS // FORWARD_ROWS):
                    writer.append(block_ND, meta)
        index_shards(draft)
        return {}

    return produce(store, Recipe(kind="activations", config={"shards": num_shards}), "bench", build).artifact


def memory_rows(store: Store, folder: Path) -> list[Row]:
    """Peak memory of capturing, and of training, with ten times the tokens."""
    source = subjects.trained()
    corpora = [subjects.stories(store, source, folder, tokens).uri for tokens in MEMORY_TOKENS]
    rows = []
    for step in ("capture", "train"):
        few, many = (_peak_bytes(step, store, corpus) for corpus in corpora)
        growth = round(many / few - 1, 4)
        tokens = " to ".join(f"{count:,}" for count in MEMORY_TOKENS)
        against = f"{few / 1e6:.0f} MB to {many / 1e6:.0f} MB"
        rows.append(row(f"more peak memory, {step}, {tokens} tokens", growth, "share", against, 0.05, growth < 0.05))
    return rows


def _peak_bytes(step: str, store: Store, corpus: str) -> int:
    command = [sys.executable, "-m", "benchmarks.peak_memory", step, store.url, corpus]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(str(folder / "store"))
        rows = [
            *capture_rows(store, subjects.trained(), 2, 100_000, 9, folder / "small"),
            *capture_rows(store, subjects.random_llama(folder / "llama", 512, 8), 3, 16_000, 5, folder / "large"),
            *serving_rows(store),
            *shard_rows(folder),
            *memory_rows(store, folder / "memory"),
        ]
    used = reporting.versions("mistudio", "transformers", "pyarrow")
    reporting.publish("activations", "Activations", rows, reporting.describe_machine(), used)


if __name__ == "__main__":
    main()
