"""Long samples in pieces that a model can take, each with some tokens of the piece before it as context.

Every token that counts does so in one piece, the one in which more stands before it: in the piece after, it is context
alone.

Shape legend: T tokens of a piece.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mistudio.corpus.tokens import TokenIds
from mistudio.monitor.watch.sample_tokens import SampleTokens


@dataclass(frozen=True, eq=False)
class Piece:
    """Some tokens of a sample.

    Attributes:
        sample: number of the sample.
        ids_T: what the model reads.
        place_T: which token of the sample each is.
        counts_T: which of them count here.
        is_reply_T: which are of the answer.
    """

    sample: int
    ids_T: TokenIds
    place_T: NDArray[np.int64]
    counts_T: NDArray[np.bool_]
    is_reply_T: NDArray[np.bool_]


def pieces_of(samples: Sequence[SampleTokens], most: int, overlap: int) -> Iterator[Piece]:
    """The pieces of samples; none of a sample without tokens.

    Args:
        samples: in the order of their numbers.
        most: tokens of a piece, special ones included.
        overlap: tokens of the piece before.
    """
    for number, sample in enumerate(samples):
        if not sample.counts_T.any():
            continue
        for place_T, new_from in _places(len(sample.ids_T), sample.num_prefix, most, overlap):
            counts_T = sample.counts_T[place_T] & (np.arange(len(place_T)) >= new_from)
            if counts_T.any():
                start = len(sample.ids_T) if sample.reply_from is None else sample.reply_from
                yield Piece(number, sample.ids_T[place_T], place_T, counts_T, place_T >= start)


def _places(length: int, num_prefix: int, most: int, overlap: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Of each piece its tokens' places in the sample, and from which of them on they are new."""
    if length <= most:
        yield np.arange(length), 0
        return
    prefix, room = np.arange(num_prefix), most - num_prefix
    step = max(room - overlap, 1)
    for number, start in enumerate(range(num_prefix, length, step)):
        end = min(start + room, length)
        new_from = num_prefix + (overlap if number else 0)
        yield np.concatenate([prefix, np.arange(start, end)]), new_from
        if end == length:
            return
