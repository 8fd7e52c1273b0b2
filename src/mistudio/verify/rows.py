"""Rows of figures: what was measured, what it is held against, and whether it reaches what was asked.

A row is ``{what, value, unit, against, to_reach, holds}``; one that falls short of ``to_reach`` stays in. Figures over
seeds are means with the 95% interval of Student's t.
"""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch
from rich.table import Table
from scipy.stats import t as student_t

from mistudio.terminal import console

Row = dict[str, object]

_TABLE_WIDTH = 170
_DIGITS = 4


def row(
    what: str, value: object, unit: str, against: str = "", to_reach: object = None, holds: bool | None = None
) -> Row:
    """One row; ``to_reach`` and ``holds`` are None where nothing is asked."""
    return {"what": what, "value": value, "unit": unit, "against": against, "to_reach": to_reach, "holds": holds}


def seeds_row(
    what: str,
    values: Sequence[float],
    unit: str,
    against: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """The mean over seeds with its interval; what is asked for is asked of the mean."""
    mean = statistics.mean(values)
    detail = "; ".join(part for part in (f"{confidence_interval(values)}, {len(values)} seeds", against) if part)
    holds = None
    if at_least is not None or at_most is not None:
        holds = (at_least is None or mean >= at_least) and (at_most is None or mean <= at_most)
    to_reach = at_least if at_most is None else at_most
    return row(what, round(mean, _DIGITS), unit, detail, to_reach, holds)


def confidence_interval(values: Sequence[float]) -> str:
    """Half of the 95% interval of the mean; said to be missing where there is one value."""
    if len(values) < 2:
        return "no interval"
    half = statistics.stdev(values) / len(values) ** 0.5 * float(student_t.ppf(0.975, len(values) - 1))
    return f"± {half:.3g}"


def describe_machine(device: torch.device | None = None) -> str:
    """Processor, cores and threads; the GPU where one is used."""
    cores = f"{os.cpu_count()} cores {_processor()}, {torch.get_num_threads()} threads"
    on_gpu = device is not None and device.type == "cuda"
    return f"{torch.cuda.get_device_name(device)}, {cores}" if on_gpu else cores


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, PyTorch and the packages named."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in ("torch", *packages)}}


def publish_rows(path: Path, title: str, rows: Sequence[Row], machine: str, used: Mapping[str, str]) -> None:
    """Print the rows as a table, and write them to ``path`` as JSON, each beside machine and versions."""
    table = Table("what", "value", "unit", "against", "to reach", "holds", title=f"{title}; {machine}")
    for line in rows:
        table.add_row(*("" if value is None else str(value) for value in line.values()))
    console(width=_TABLE_WIDTH).print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    annotated = [{**line, "machine": machine, "versions": dict(used)} for line in rows]
    path.write_text(json.dumps(annotated, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    """What the processor calls itself, and the wide number formats it has."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = [name for name in ("avx512f", "avx512_bf16", "amx_bf16") if name in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *has])
