"""The values of columns on texts, as thresholds are compared with them; and counts of what is above thresholds.

Shape legend: S samples, W columns, T tokens of a sample, M largest values that are kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.records import Exchange, Observation, Origin, Sample
from mistudio.monitor.watch.watch_list import Part, Pool, WatchList
from mistudio.monitor.watch.watching import Watcher
from mistudio.progress import progress

Floats = NDArray[np.float32]


class _Alike(NamedTuple):
    """Columns that are pooled alike."""

    part: Part
    pool: Pool
    column: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TextReader:
    """Reads texts some at a time.

    Attributes:
        watcher: reads them.
        at_once: how many.
    """

    watcher: Watcher
    at_once: int

    def by_text(self, samples: Sequence[Sample], what: str) -> Floats:
        """The value of each column of each text [S, W]; NaN where there is none, as of a reply that is not there."""
        alike = _alike(self.watcher.watch_list)
        value_SW = np.full((len(samples), len(self.watcher.watch_list.watched)), np.nan, dtype=np.float32)
        for start, some in self._some(samples, what):
            exchanges = [Exchange(str(number), 0.0, Origin(), (each,)) for number, each in enumerate(some)]
            for seen in self.watcher.observe(exchanges):
                _fill(value_SW[start + int(seen.exchange)], seen, alike)
        return value_SW

    def by_token(self, samples: Sequence[Sample], what: str) -> Iterator[Floats]:
        """The values of each column on the tokens of each text that count [T, W], text by text."""
        for _, some in self._some(samples, what):
            for one in self.watcher.observe_tokens(some):
                yield one.value_TW[one.is_read_T]

    def _some(self, samples: Sequence[Sample], what: str) -> Iterator[tuple[int, Sequence[Sample]]]:
        with progress(what, len(samples), "texts") as bar:
            for start in range(0, len(samples), self.at_once):
                some = samples[start : start + self.at_once]
                yield start, some
                bar.advance(len(some))


class Largest:
    """The largest values of each column, of any number that come by.

    Args:
        width: columns.
        most: how many are kept.
    """

    def __init__(self, width: int, most: int) -> None:
        self._most, self.count = most, 0
        self._kept_MW = np.empty((0, width), dtype=np.float32)

    def add(self, value_TW: Floats) -> None:
        """More of them."""
        self.count += len(value_TW)
        together = np.concatenate([self._kept_MW, value_TW])
        if len(together) > self._most:
            together = np.partition(together, len(together) - self._most, axis=0)[len(together) - self._most :]
        self._kept_MW = together

    def ranked(self, rank: int) -> Floats:
        """The value of each column that is the ``rank``-th largest, from 1 [W]."""
        found: Floats = np.sort(self._kept_MW, axis=0)[-rank]
        return found


def _alike(watch_list: WatchList) -> list[_Alike]:
    ways: dict[tuple[Part, Pool], list[int]] = {}
    for number, one in enumerate(watch_list.watched):
        ways.setdefault((one.part, one.pool), []).append(number)
    return [_Alike(part, pool, np.array(numbers)) for (part, pool), numbers in ways.items()]


def _fill(value_W: Floats, seen: Observation, alike: Sequence[_Alike]) -> None:
    for each in alike:
        pooled = seen.over(each.part)
        if pooled is not None and pooled.num_tokens:
            value_W[each.column] = (pooled.max_W if each.pool == "max" else pooled.top_W)[each.column]
