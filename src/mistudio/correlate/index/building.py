"""Making an index of a decoder, and choosing what it needs to find what it should.

Settings are chosen by one half of the queries, with some room, and recall is told of the other half.

Shape legend: F features, D width of the decoder's rows, R rows that are drawn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.decoder_rows import unit_blocks
from mistudio.correlate.index.exact_index import ExactIndex
from mistudio.correlate.index.faiss_index import FaissIndex
from mistudio.correlate.index.kinds import (
    Approximate,
    breadths,
    candidates_within,
    fill,
    new_index,
    set_breadth,
    specification,
)
from mistudio.correlate.index.nearest import Vectors
from mistudio.correlate.index.recall import Known, known, recall, recall_by_candidates
from mistudio.progress import progress

if TYPE_CHECKING:
    import faiss

_ROOM = 1.5  # so many times the candidates that were needed are taken
_BLOCKS_AT_ONCE = 16  # candidates are a multiple of this


@dataclass(frozen=True)
class Decoder:
    """What is indexed.

    Attributes:
        decoder_FD: the rows, mapped.
        scale_F: one divided by the length of each, 0 for those that are zero.
        queries: of each kind, one long.
        seed: of what is drawn.
    """

    decoder_FD: Vectors
    scale_F: Vectors
    queries: Mapping[str, Vectors]
    seed: int

    @property
    def exact(self) -> ExactIndex:
        """Brute force over it."""
        return ExactIndex(self.decoder_FD, self.scale_F)

    def sample(self, count: int) -> Vectors:
        """Rows to fit codes to [R, D], without those that are zero."""
        row_R = np.flatnonzero(self.scale_F)
        if len(row_R) > count:
            row_R = np.sort(np.random.default_rng(self.seed).choice(row_R, count, replace=False))
        sample_RD: Vectors = self.decoder_FD[row_R] * self.scale_F[row_R, None]
        return sample_RD

    def blocks(self) -> Iterator[Vectors]:
        """All rows, one long, in blocks."""
        with progress("Index directions", len(self.decoder_FD), "features") as bar:
            for block_RD in unit_blocks(self.decoder_FD, self.scale_F):
                yield block_RD
                bar.advance(len(block_RD))


@dataclass(frozen=True)
class Built:
    """An index that was made.

    Attributes:
        kind: of it.
        made: what it is, as faiss's index factory reads it.
        index: that gives candidates.
        candidates: of a query.
        breadth: how much of the index a search looks at.
        recall: on the half of the queries that were held out, by kind.
    """

    kind: Approximate
    made: str
    index: "faiss.Index"
    candidates: int
    breadth: int
    recall: Mapping[str, float]

    @property
    def least_recall(self) -> float:
        """Of the kind of query that it is worst at."""
        return min(self.recall.values())


def build_index(kind: Approximate, decoder: Decoder, config: IndexConfig) -> Built:
    """Make an index, with as few candidates and as little breadth as find what is asked for.

    Where that is out of reach it has the most that it may have, and its recall says so.

    Raises:
        ConfigError: there are too few features for it, or faiss is not installed.
    """
    num_features, width = decoder.decoder_FD.shape
    made = specification(kind, num_features, width, config)
    index = new_index(made, width, config)
    fill(index, decoder.sample(config.training_rows), decoder.blocks())
    exact = decoder.exact
    halves = {each: found.halves() for each, found in known(exact, decoder.queries).items()}
    tuning, heldout = ({each: pair[half] for each, pair in halves.items()} for half in (0, 1))
    candidates, breadth = _settled(index, exact, tuning, min(config.max_candidates, num_features), config.recall)
    searched = FaissIndex(index, exact, candidates, breadth)
    return Built(kind, made, index, candidates, breadth, {each: recall(searched, own) for each, own in heldout.items()})


def _settled(
    index: "faiss.Index", exact: ExactIndex, tuning: Mapping[str, Known], most: int, wanted: float
) -> tuple[int, int]:
    """The fewest candidates and the least breadth that find enough of every kind of query, and some room."""
    ladder = breadths(index, most)
    for step, breadth in enumerate(ladder):
        set_breadth(index, breadth)
        needed = _needed(index, exact, tuning, candidates_within(index, breadth, most), wanted)
        if needed is not None:
            wider = ladder[min(step + 1, len(ladder) - 1)]
            roomy = -(-int(needed * _ROOM) // _BLOCKS_AT_ONCE) * _BLOCKS_AT_ONCE
            return min(max(roomy, 2 * _BLOCKS_AT_ONCE), candidates_within(index, wider, most)), wider
    return most, ladder[-1]


def _needed(
    index: "faiss.Index", exact: ExactIndex, tuning: Mapping[str, Known], most: int, wanted: float
) -> int | None:
    """The fewest candidates that find enough of every kind of query; None where the most do not."""
    needed = 0
    for queries in tuning.values():
        is_enough_N = recall_by_candidates(index, exact, queries, most) >= wanted
        if not is_enough_N[-1]:
            return None
        needed = max(needed, int(is_enough_N.argmax()) + 1)
    return needed
