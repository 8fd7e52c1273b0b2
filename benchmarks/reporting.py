"""What the benchmarks share: paired timings, rows, and the table and JSON file they end up in.

A row is ``{what, value, unit, against, to_reach, holds}``; one that falls short of ``to_reach`` stays in. Two
things are compared in turns in one process, and the median of the pairs' ratios counts, so that what else the
machine does falls on both alike.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

FOLDER = Path("build/bench")

Row = dict[str, object]


class Paired(NamedTuple):
    """Times of two things done in turns, in seconds."""

    ours_s: list[float]
    theirs_s: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was, pair by pair."""
        return [theirs / ours for ours, theirs in zip(self.ours_s, self.theirs_s, strict=True)]

    @property
    def speed(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> str:
        """First and third quartile of the ratios."""
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return f"{low:.2f} to {high:.2f}"


def paired(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time the two in turns, starting with the other one each time."""
    times: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for pair in range(warm_up + pairs):
        for side in (ours, theirs) if pair % 2 else (theirs, ours):
            times[side].append(timed(side, clock))
    return Paired(times[ours][warm_up:], times[theirs][warm_up:])


def timed(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that ``action`` takes, by a clock."""
    started = clock()
    action()
    return clock() - started


def row(
    what: str, value: object, unit: str, against: str = "", to_reach: object = None, holds: bool | None = None
) -> Row:
    """One row; ``to_reach`` and ``holds`` are None where nothing is asked."""
    return {"what": what, "value": value, "unit": unit, "against": against, "to_reach": to_reach, "holds": holds}


def speed_rows(what: str, times: Paired, against: str, to_reach: float | None = None) -> list[Row]:
    """The median of the ratios, with its quartiles and the times of both."""
    speed = round(times.speed, 3)
    ours_ms, theirs_ms = (statistics.median(each) * 1e3 for each in times)
    detail = f"{ours_ms:.1f} ms to {theirs_ms:.1f} ms, {len(times.ours_s)} pairs"
    holds = None if to_reach is None else speed >= to_reach
    return [
        row(f"{what}, against {against}", speed, "x", detail, to_reach, holds),
        row(f"{what}, against {against}, quartiles", times.quartiles, "x"),
    ]


def describe_machine(device: torch.device | None = None) -> str:
    """Processor, cores and threads; the GPU where one is used."""
    cores = f"{os.cpu_count()} cores {_processor()}, {torch.get_num_threads()} threads"
    on_gpu = device is not None and device.type == "cuda"
    return f"{torch.cuda.get_device_name(device)}, {cores}" if on_gpu else cores


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, PyTorch and the packages named."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in ("torch", *packages)}}


def publish(name: str, title: str, rows: Sequence[Row], machine: str, used: Mapping[str, str]) -> None:
    """Print the rows as a table and write them to ``build/bench/<name>.json``."""
    table = Table("what", "value", "unit", "against", "to reach", "holds", title=f"{title}; {machine}")
    for line in rows:
        table.add_row(*("" if value is None else str(value) for value in line.values()))
    Console(width=170).print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    annotated = [{**line, "machine": machine, "versions": dict(used)} for line in rows]
    (FOLDER / f"{name}.json").write_text(json.dumps(annotated, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    """What the processor calls itself, and the wide number formats it has."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *has])
