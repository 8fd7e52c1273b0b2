"""The tokens of some documents, one after the other, as programs see them.

Sequences of a document follow each other, without the special tokens around them; each token knows its
place in its sequence, as that is all a model can see of what comes before.

Shape legend: N tokens, S sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.errors import CorpusError

NO_TOKEN = -1  # before the first token of a sequence, or behind its last


@dataclass(frozen=True)
class Tokens:
    """Tokens in the order of documents, sequences and positions.

    Attributes:
        id_N: token ids.
        document_N: the document of each.
        sequence_N: its sequence, numbered as in the corpus.
        position_N: tokens of the document before it.
        place_N: tokens of its sequence before it, special ones not counted.
        task_N: the task of its document, as a place in ``tasks``.
        tasks: names of tasks.
        strings: how each token id reads, spaces and newlines as they are.
    """

    id_N: NDArray[np.int32]
    document_N: NDArray[np.int32]
    sequence_N: NDArray[np.int32]
    position_N: NDArray[np.int32]
    place_N: NDArray[np.int32]
    task_N: NDArray[np.int32]
    tasks: tuple[str, ...]
    strings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.id_N)

    @cached_property
    def document_starts(self) -> NDArray[np.int64]:
        """The first token of each document."""
        return _run_starts(self.document_N)

    @cached_property
    def sequence_starts(self) -> NDArray[np.int64]:
        """The first token of each sequence."""
        return _run_starts(self.sequence_N)

    def near(self, shift: int) -> NDArray[np.int32]:
        """The token ids ``shift`` places on in the same sequence; -1 where there is none."""
        id_N = np.full(len(self), NO_TOKEN, dtype=np.int32)
        here, there = (slice(None, -shift), slice(shift, None)) if shift > 0 else (slice(-shift, None), slice(shift))
        same = self.sequence_N[here] == self.sequence_N[there]
        id_N[here] = np.where(same, self.id_N[there], NO_TOKEN)
        return id_N

    def text(self, start: int, stop: int) -> str:
        """Tokens ``start`` to ``stop`` as text."""
        return "".join(self.strings[token] for token in self.id_N[start:stop].tolist())

    def take(self, documents: NDArray[np.integer]) -> "Tokens":
        """The tokens of some of the documents alone."""
        return self.rows(np.flatnonzero(np.isin(self.document_N, documents)))

    def rows(self, token_R: NDArray[np.int64]) -> "Tokens":
        """Some tokens; whole sequences, or what looks at other tokens will not find them."""
        return Tokens(
            self.id_N[token_R],
            self.document_N[token_R],
            self.sequence_N[token_R],
            self.position_N[token_R],
            self.place_N[token_R],
            self.task_N[token_R],
            self.tasks,
            self.strings,
        )


def read_tokens(corpus: TokenCorpus, split: Split, sequences: NDArray[np.int64], strings: Sequence[str]) -> Tokens:
    """The tokens of these sequences of a split, in ascending order, without special tokens around them.

    Args:
        corpus: holds them.
        split: train or heldout.
        sequences: their numbers.
        strings: how each token id reads.
    """
    rows = corpus.batch(split, np.sort(sequences))
    stop = -corpus.num_suffix or None
    ids = [token_ids[corpus.num_prefix : stop] for token_ids in rows.token_ids]
    length_S = np.array([len(each) for each in ids], dtype=np.int64)
    tasks = tuple(corpus.tasks)
    code_S = np.searchsorted(np.array(tasks), rows.task) if len(tasks) else np.zeros(len(ids), np.int64)
    place_N = np.arange(length_S.sum()) - np.repeat(np.cumsum(length_S) - length_S, length_S)
    id_N = np.concatenate([np.empty(0, np.int32), *ids]).astype(np.int32)
    known = max(int(id_N.max(initial=0)) + 1 - len(strings), 0)
    return Tokens(
        id_N=id_N,
        document_N=np.repeat(rows.document, length_S),
        sequence_N=np.repeat(np.sort(sequences), length_S).astype(np.int32),
        position_N=(np.repeat(rows.start, length_S) + place_N).astype(np.int32),
        place_N=place_N.astype(np.int32),
        task_N=np.repeat(code_S, length_S).astype(np.int32),
        tasks=tasks,
        strings=(*strings, *(f"<unused {len(strings) + extra}>" for extra in range(known))),
    )


def draw_sequences(
    corpus: TokenCorpus, split: Split, num_captured: int, max_tokens: int, seed: int
) -> NDArray[np.int64]:
    """The sequences of documents drawn at random until they have ``max_tokens`` tokens.

    Args:
        corpus: holds the documents.
        split: train or heldout.
        num_captured: the first so many sequences of the split have activations.
        max_tokens: enough tokens, special ones not counted; whole documents are taken.
        seed: of the draw.

    Raises:
        CorpusError: no document has activations.
    """
    document_S = corpus.documents(split)
    uncut = num_captured >= len(document_S) or document_S[num_captured] != document_S[num_captured - 1]
    last = num_captured if uncut else int(np.searchsorted(document_S, document_S[num_captured - 1]))
    document_S = document_S[:last]
    if not len(document_S):
        message = f"{corpus.artifact.uri} has no whole document with activations in its {split} split."
        raise CorpusError(message)
    length_S = corpus.lengths(split)[:last] - corpus.num_prefix - corpus.num_suffix
    documents, first = np.unique(document_S, return_index=True)
    tokens_of = np.add.reduceat(length_S.astype(np.int64), first)
    order = np.random.default_rng(seed).permutation(len(documents))
    num_drawn = int(np.searchsorted(np.cumsum(tokens_of[order]), max_tokens)) + 1
    return np.flatnonzero(np.isin(document_S, documents[order[:num_drawn]]))


def _run_starts(column_N: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.flatnonzero(np.diff(column_N, prepend=-1))
