"""A training step of each architecture against SAELens, sparsify and dictionary_learning.

Run by ``make bench-sae``, which gives the peers a virtual environment of their own. Ours and theirs alternate in one
process, on the same batches of the same rows, each with all that its own trainer does in a step; the median of the
pairs' ratios counts. All are first trained for a while on smaller batches, so that as many latents are active as in
most of a training run; where a penalty keeps them few, its weight is steered on both sides until the L0 is within a
tenth of the same number. Prints a table and writes ``build/bench/sae_peers.json``. Where there is a GPU, its shapes
are measured as well.

On a machine that is busy with other things, ``--processor-time`` counts the time that this process has a processor.

Shape legend: N rows, D their width, T rows of a batch, F latents.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor

from benchmarks import reporting
from benchmarks.contenders import (
    PENALISED,
    Contender,
    DictionaryLearning,
    MemoryRows,
    Ours,
    SAELens,
    Shape,
    Sparsify,
    batches_of,
    fvu,
    our_config,
    saelens_config,
    superposition,
)
from benchmarks.reporting import Row, paired, row, speed_rows

THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard")
CPU_SHAPE = Shape(512, 4096, 32, 4096)
GPU_SHAPES = (
    Shape(768, 24_576, 32, 4096),
    Shape(768, 24_576, 32, 32_768),
    Shape(2304, 65_536, 64, 4096),
    Shape(2304, 65_536, 64, 32_768),
)
NUM_BATCHES = 8
SETTLE_ROWS = 256  # of a batch while settling
SETTLE_STEPS = {True: 300, False: 60}  # with and without a penalty
MOST_STEPS = 3000  # until a penalty's L0 is near enough
NEAR = 0.1  # of the L0 asked for
CHECKED_ROWS = 4096
NUM_DEAD = 512

Clock = Callable[[], float]


class Match:
    """Contenders for one shape and architecture, on the same rows.

    Args:
        architecture: which.
        shape: what is trained.
        rows_ND: the rows; the last batch of them is kept to look at the reconstruction.
        pairs: timed steps of each.
        clock: what times them.
        device: where.
    """

    def __init__(
        self, architecture: str, shape: Shape, rows_ND: Tensor, pairs: int, clock: Clock, device: str = "cpu"
    ) -> None:
        self.architecture, self.shape, self.pairs, self.clock, self.device = architecture, shape, pairs, clock, device
        self.checked_ND, rows_ND = rows_ND[-CHECKED_ROWS:], rows_ND[:-CHECKED_ROWS]
        self.rows = MemoryRows(rows_ND, shape.batch)
        self.settle_steps = SETTLE_STEPS[architecture in PENALISED]
        # Long enough that steps are timed before the learning rate falls.
        self.num_steps = 2 * ((MOST_STEPS if architecture in PENALISED else self.settle_steps) + 8 * pairs)
        self.what = f"{architecture} step, {shape}"

    def batches(self, batch_rows: int) -> Iterator[Tensor]:
        """All rows, over and over."""
        return batches_of(self.rows.rows_ND, batch_rows)

    def ours(self, encoder_dtype: str = "float32") -> Ours:
        """This project, untrained."""
        config = our_config(self.architecture, self.shape)
        return Ours(config, self.rows, self.shape, self.num_steps, 0, self.device, encoder_dtype=encoder_dtype)

    def saelens(self, autocast: bool = False, **changes: object) -> SAELens:
        """SAELens, untrained, with changes to its configuration."""
        config = saelens_config(self.architecture, self.shape, self.settle_steps, self.device, **changes)
        target = self.shape.k if self.architecture in PENALISED else None
        batches = self.batches(self.shape.batch)
        return SAELens(config, batches, self.shape, self.num_steps, target_l0=target, autocast=autocast, lr=1e-3)

    def sparsify(self, auxk_alpha: float = 0.0) -> Sparsify:
        """sparsify, untrained."""
        return Sparsify(self.shape, auxk_alpha, self.device)

    def dictionary_learning(self) -> DictionaryLearning:
        """dictionary_learning, untrained."""
        return DictionaryLearning(self.architecture, self.rows, self.shape, self.num_steps, self.device)

    def settle(self, contender: Contender) -> str:
        """Train for a while; says what it did to the reconstruction."""
        before, _ = fvu(contender, self.checked_ND)
        batches, steps = self.batches(SETTLE_ROWS), 0
        steered = self.architecture in PENALISED and isinstance(contender, Ours | SAELens)
        while True:
            for batch_TD in islice(batches, self.settle_steps):
                contender.step(batch_TD)
            steps += self.settle_steps
            after, l0 = fvu(contender, self.checked_ND)
            if not steered or abs(l0 / self.shape.k - 1) < NEAR or steps >= MOST_STEPS:
                break
        if isinstance(contender, SAELens):
            contender.settled()
        return f"FVU {before:.3f} to {after:.3f}, L0 {l0:.1f}, {steps} steps"

    def rows_of(
        self,
        ours: Ours,
        theirs: Contender,
        name: str,
        to_reach: float | None = None,
        label: str = "",
        num_dead: int = 0,
    ) -> list[Row]:
        """Time the two in turns, after ``theirs`` was settled as ``ours`` was before."""
        settled = self.settle(theirs)
        times = paired(self._steps(ours, num_dead), self._steps(theirs, num_dead), self.pairs, clock=self.clock)
        sys.stderr.write(f"{self.what}{label}, against {name}: {times.speed:.2f} ({times.quartiles})\n")
        return [
            *speed_rows(self.what + label, times, name, to_reach),
            row(f"{self.what}{label}, {name} before it was timed", settled, ""),
        ]

    def _steps(self, contender: Contender, num_dead: int) -> Callable[[], None]:
        batches = self.batches(self.shape.batch)

        def step() -> None:
            contender.silent_F[:num_dead] = 10**8  # dead, whatever the library calls so
            if isinstance(contender, Ours):  # which counts them only now and then
                contender.learner.dead_indices = torch.arange(num_dead, device=self.device)
            contender.step(next(batches))
            if self.device != "cpu":
                torch.cuda.synchronize()

        return step


def cpu_rows(architecture: str, rows_ND: Tensor, pairs: int, clock: Clock) -> list[Row]:
    """One architecture in float32, and TopK with a bfloat16 encoder as well."""
    match = Match(architecture, CPU_SHAPE, rows_ND, pairs, clock)
    ours = match.ours()
    rows = [row(f"{match.what}, ours before it was timed", match.settle(ours), "")]
    to_reach = 5.0 if architecture == "topk" else 2.0
    rows += match.rows_of(ours, match.saelens(), "SAELens", to_reach)
    rows += match.rows_of(ours, match.dictionary_learning(), "dictionary_learning")
    return rows + topk_rows(match, ours) if architecture == "topk" else rows


def topk_rows(match: Match, ours: Ours) -> list[Row]:
    """What else TopK is compared with."""
    rows = match.rows_of(ours, match.sparsify(), "sparsify", 2.0)
    # SAELens can hold latents sparse, though on a CPU only where their norms are not rescaled.
    sparse = match.saelens(use_sparse_activations=True, rescale_acts_by_decoder_norm=False)
    rows += match.rows_of(ours, sparse, "SAELens with sparse activations", 5.0)
    label = f", {NUM_DEAD} latents dead"
    rows += match.rows_of(ours, match.saelens(), "SAELens", None, label, NUM_DEAD)
    rows += match.rows_of(ours, match.sparsify(1 / 32), "sparsify with AuxK", None, label, NUM_DEAD)
    narrow = match.ours("bfloat16")
    label = ", bfloat16 encoder"
    rows.append(row(f"{match.what}{label}, ours before it was timed", match.settle(narrow), ""))
    rows += match.rows_of(narrow, match.saelens(), "SAELens in float32", 10.0, label)
    return rows + match.rows_of(narrow, match.saelens(autocast=True), "SAELens with autocast", None, label)


def gpu_rows(shape: Shape, pairs: int) -> Iterator[Row]:
    """What could be measured of one shape; where it fails, a row says so, and other shapes keep theirs."""
    try:
        yield from topk_gpu_rows(shape, pairs)
    except Exception as error:  # whichever library's it is
        text = " ".join(str(error).split())
        sys.stderr.write(f"topk step, {shape}: {traceback.format_exc()}\n")
        yield row(f"topk step, {shape}, not measured from here on", f"{type(error).__name__}: {text}"[:200], "")
    torch.cuda.empty_cache()  # only here, without the error, is what the shape held free


def topk_gpu_rows(shape: Shape, pairs: int) -> Iterator[Row]:
    """TopK on a GPU, with a bfloat16 encoder, and the share of the time that the encoder product alone takes."""
    rows_ND = superposition(2 * shape.batch + CHECKED_ROWS, shape.d_in).cuda()
    match = Match("topk", shape, rows_ND, pairs, time.perf_counter, "cuda")
    ours = match.ours("bfloat16")
    yield row(f"{match.what}, ours before it was timed", match.settle(ours), "")
    contenders = (
        ("SAELens with autocast", lambda: match.saelens(autocast=True), 3.0),
        ("sparsify with Triton", match.sparsify, 1.5),
    )
    for name, make, to_reach in contenders:
        try:
            yield from match.rows_of(ours, make(), name, to_reach)
        except torch.OutOfMemoryError:
            yield row(f"{match.what}, against {name}", "out of memory", "", "", to_reach)
        torch.cuda.empty_cache()
    # Beside a peer there may be less room; more than one part, and the rows above are slower for it.
    yield row(f"{match.what}, parts of a batch that memory left ours", ours.learner.micro_batches, "")
    x_TD = rows_ND[: shape.batch].bfloat16()
    W_DF = ours.learner.sae.W_enc.detach().bfloat16().T

    def product() -> None:
        torch.mm(x_TD, W_DF)
        torch.cuda.synchronize()

    times = paired(match._steps(ours, 0), product, pairs, warm_up=3)
    yield from speed_rows(f"{match.what}, share of the bound", times, "its encoder product alone", 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9, help="timed steps of each")
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES)
    parser.add_argument("--processor-time", action="store_true", help="count processor time (CPU shapes)")
    chosen = parser.parse_args()
    clock = time.process_time if chosen.processor_time else time.perf_counter
    torch.set_num_threads(THREADS)
    on_gpu = torch.cuda.is_available()
    rows_ND = superposition(NUM_BATCHES * CPU_SHAPE.batch + CHECKED_ROWS, CPU_SHAPE.d_in)
    rows = list(chain(*(cpu_rows(architecture, rows_ND, chosen.pairs, clock) for architecture in chosen.architectures)))
    if on_gpu:
        rows += chain(*(gpu_rows(shape, chosen.pairs) for shape in GPU_SHAPES))
    machine = reporting.describe_machine(torch.device("cuda" if on_gpu else "cpu"))
    used = reporting.versions("mistudio", "sae-lens", "eai-sparsify", "dictionary-learning")
    title = "Training steps, processor time" if chosen.processor_time else "Training steps"
    reporting.publish("sae_peers", title, rows, machine, used)


if __name__ == "__main__":
    main()
