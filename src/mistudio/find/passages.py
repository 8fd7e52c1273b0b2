"""Contexts that begin with the same tokens, joined: the longest of them is read for all.

Shape legend: P contexts, S passages, M contexts of some passages.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Passages(NamedTuple):
    """Which contexts are read together, and where each begins."""

    longest: NDArray[np.int64]  # of each passage, the context that has all its tokens [S]
    order_P: NDArray[np.int64]  # contexts, those of a passage together
    first: NDArray[np.int64]  # where those of each passage begin, and where the last ones end [S + 1]

    def members(self, passages: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The contexts of some passages, and the place of the passage of each among those given [M]."""
        spans = [self.order_P[self.first[each] : self.first[each + 1]] for each in passages]
        return np.concatenate(spans), np.repeat(np.arange(len(spans)), [len(span) for span in spans])


def join_alike(token_ids: Sequence[NDArray[np.int32]]) -> Passages:
    """Join contexts of which one is the beginning of the other, for models in which a token sees those before it."""
    # In this order a context stands before all those that begin with it.
    texts = [ids.astype(">u4").tobytes() for ids in token_ids]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    ends = [place for place in range(len(order)) if place + 1 == len(order) or not _continues(texts, order, place)]
    order_P = np.array(order, dtype=np.int64)
    return Passages(order_P[ends], order_P, np.array([0, *(place + 1 for place in ends)], dtype=np.int64))


def _continues(texts: list[bytes], order: list[int], place: int) -> bool:
    """Whether the next context in the order begins with all of this one."""
    return texts[order[place + 1]].startswith(texts[order[place]])
