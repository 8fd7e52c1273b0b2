"""Made-up documents as tokens: one token a word, sign or line break."""

import re
from collections.abc import Sequence

import numpy as np

from mistudio.explain.tokens import Tokens

_PIECE = re.compile(r"\n| ?\w+| ?[^\w\s]| +")


def tokens_of(texts: Sequence[str], tasks: Sequence[str] | None = None, length: int = 10_000) -> Tokens:
    """Each text as one document, cut into sequences of ``length`` tokens."""
    pieces = [_PIECE.findall(text) for text in texts]
    strings = tuple(sorted({piece for each in pieces for piece in each}))
    number = {piece: place for place, piece in enumerate(strings)}
    names = tuple(sorted(set(tasks or ["text"])))
    ids, documents, sequences, positions, places, codes = [], [], [], [], [], []
    sequence = 0
    for document, each in enumerate(pieces):
        for position, piece in enumerate(each):
            sequence += position > 0 and position % length == 0
            ids.append(number[piece])
            documents.append(document)
            sequences.append(sequence)
            positions.append(position)
            places.append(position % length)
            codes.append(names.index(tasks[document]) if tasks else 0)
        sequence += 1
    columns = [np.array(column, dtype=np.int32) for column in (ids, documents, sequences, positions, places, codes)]
    return Tokens(*columns, names, strings)
