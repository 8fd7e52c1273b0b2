"""What the benchmarks share: paired timings, rows, and the table and JSON file they end up in.

A row is ``{what, value, unit, against, to_reach, holds}``; one that falls short of ``to_reach`` stays in. Two
things are compared in turns in one process, and the median of the pairs' ratios counts, so that what else the
machine does falls on both alike.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mistudio.verify.rows import Row, describe_machine, publish_rows, row, versions

__all__ = ["FOLDER", "Paired", "Row", "describe_machine", "paired", "publish", "row", "speed_rows", "timed", "versions"]

FOLDER = Path("build/bench")


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


def publish(name: str, title: str, rows: Sequence[Row], machine: str, used: Mapping[str, str]) -> None:
    """Print the rows as a table and write them to ``build/bench/<name>.json``."""
    publish_rows(FOLDER / f"{name}.json", title, rows, machine, used)
