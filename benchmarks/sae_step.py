"""A TopK training step: sparse after the encoder, against the same written with dense matrices in plain PyTorch.

Run as ``python -m benchmarks.sae_step`` in the root of the checkout. Both take the same batch and hold the same
weights; a step is losses, gradients, clipping, Adam and the unit norm. The two alternate in one process, and the
median of the pairs' ratios counts, so that what else the machine does falls on both alike. Prints a table and
writes ``build/bench/sae_step.json``. Uses the GPU where there is one, and as many cores as PyTorch is given.

Shape legend: T tokens, D model width, F features (latents), K active latents a token.
"""

import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mistudio.sae import Losses, Stage, TopKConfig, new_autoencoder
from mistudio.sae.topk import TopKTraining

OUTPUT = Path("build/bench/sae_step.json")
WARM_UP = 2


class Shape(NamedTuple):
    """What is measured, and how many pairs of steps."""

    d_in: int
    width: int
    k: int
    batch: int
    pairs: int

    def __str__(self) -> str:
        return f"d {self.d_in}, width {self.width}, k {self.k}, batch {self.batch}"


SHAPES = (Shape(512, 4096, 32, 4096, 9), Shape(128, 1024, 32, 1024, 41), Shape(64, 1024, 8, 1024, 41))


class DenseTopK(TopKTraining):
    """The reference: every product over all latents, and autograd for all gradients."""

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """As the one it stands beside, without dead latents."""
        sae = self.sae
        top = torch.addmm(sae.b_enc, x_TD, sae.W_enc.T).topk(sae.config.k, dim=1, sorted=False)
        values_TK = top.values.relu()
        acts_TF = values_TK.new_zeros(len(x_TD), sae.width).scatter(1, top.indices, values_TK)
        fvu = (y_TE - acts_TF @ sae.W_dec - sae.b_dec).square().mean()
        fired_F = (values_TK > 0).sum(dim=0)
        return Losses(fvu, fvu.detach(), {}, fired_F)


class Contender:
    """An autoencoder with its optimiser."""

    def __init__(self, kind: type[TopKTraining], shape: Shape, x_TD: Tensor) -> None:
        self.training = kind(new_autoencoder(TopKConfig(width=shape.width, k=shape.k), shape.d_in))
        self.training.initialise(x_TD.cpu(), torch.Generator().manual_seed(0))
        self.training.to(x_TD.device)
        self.optimiser = torch.optim.Adam(self.training.parameters(), lr=1e-3, fused=True)
        self.x_TD = x_TD
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self) -> None:
        """Do one step, and note its time and loss."""
        synchronise(self.x_TD.device)
        started = time.perf_counter()
        losses = self.training.losses(self.x_TD, self.x_TD, Stage(0.5))
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        self.training.before_step()
        torch.nn.utils.clip_grad_norm_(self.training.parameters(), 1.0, foreach=True)
        self.optimiser.step()
        self.training.after_step(losses.parts, 0.5)
        synchronise(self.x_TD.device)
        self.seconds.append(time.perf_counter() - started)
        self.losses.append(float(losses.objective))


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(shape: Shape, device: torch.device) -> list[dict[str, object]]:
    """Time the two in turns, starting with the other one each time."""
    generator = torch.Generator().manual_seed(1)
    x_TD = torch.randn(shape.batch, shape.d_in, generator=generator).to(device)
    ours, dense = Contender(TopKTraining, shape, x_TD), Contender(DenseTopK, shape, x_TD)
    for pair in range(WARM_UP + shape.pairs):
        for contender in (ours, dense) if pair % 2 else (dense, ours):
            contender.step()
    # After the second step, which shows the gradients of the first; later, rounding sets the two apart.
    difference = abs(ours.losses[1] - dense.losses[1]) / dense.losses[1]
    ratios = [b / a for a, b in zip(ours.seconds[WARM_UP:], dense.seconds[WARM_UP:], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    against = "dense step in plain PyTorch"
    ours_ms, dense_ms = (statistics.median(each.seconds[WARM_UP:]) * 1e3 for each in (ours, dense))
    speedup = round(statistics.median(ratios), 2)
    return [
        row(f"step, {shape}", round(ours_ms, 2), "ms", f"{dense_ms:.2f} ms, {against}"),
        row(f"speed-up, median of {shape.pairs} pairs, {shape}", speedup, "x", against, 1.0, speedup > 1.0),
        row(f"speed-up, quartiles, {shape}", f"{low:.2f} to {high:.2f}", "x", against),
        row(f"difference of the loss, {shape}", f"{difference:.1e}", "relative", against, 1e-5, difference < 1e-5),
    ]


def row(
    what: str, value: object, unit: str, against: str, to_reach: float | None = None, holds: bool | None = None
) -> dict[str, object]:
    return {"what": what, "value": value, "unit": unit, "against": against, "to_reach": to_reach, "holds": holds}


def describe_machine(device: torch.device) -> str:
    cores = f"{os.cpu_count()} cores {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}, {cores}" if device.type == "cuda" else cores


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = describe_machine(device)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    rows = [line for shape in SHAPES for line in measure(shape, device)]
    table = Table("what", "value", "unit", "against", "to reach", "holds", title=f"TopK training step, {machine}")
    for line in rows:
        table.add_row(*("" if line[name] is None else str(line[name]) for name in rows[0]))
    Console(width=150).print(table)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    annotated = [{**line, "machine": machine, "versions": versions} for line in rows]
    OUTPUT.write_text(json.dumps(annotated, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
