"""Forward passes over sequences: put together by length, padded, run, and told apart again.

What reads a model above capture goes through :func:`token_batches`. What comes of a pass is the caller's: activations
at hook points (:func:`~mistudio.subject.text_rows`), or logits. Splicing and steering, which run a batch several times
with something changed, and a judge that writes make their batches themselves.

Shape legend: S sequences, B sequences of a batch, T tokens, D width of a hook point, N tokens of text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.activations.plan import like_lengths
from mistudio.corpus.reader import Split, TokenCorpus
from mistudio.corpus.tokens import TokenIds
from mistudio.errors import SubjectError
from mistudio.subject import HookPoint, ResolvedHook, Subject, TokenBatch, text_rows, token_batch

BATCH_TOKENS = 4096


class Sequences(Protocol):
    """Sequences of tokens, each with the same number of special ones around it."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sequence, special ones included [S]."""

    @property
    def num_prefix(self) -> int:
        """Special tokens at the start of each."""

    @property
    def num_suffix(self) -> int:
        """Special tokens at the end of each."""

    def take(self, numbers: NDArray[np.int64]) -> Sequence[TokenIds]:
        """The token ids of some of them."""


@dataclass(frozen=True, eq=False)
class ListedSequences:
    """Sequences in memory.

    Attributes:
        token_ids: of each, special tokens included.
        num_prefix: special tokens at the start of each.
        num_suffix: special tokens at the end of each.
    """

    token_ids: Sequence[TokenIds]
    num_prefix: int = 0
    num_suffix: int = 0

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sequence, special ones included [S]."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.int32)

    def take(self, numbers: NDArray[np.int64]) -> Sequence[TokenIds]:
        """The token ids of some of them."""
        return [self.token_ids[number] for number in numbers.tolist()]


@dataclass(frozen=True, eq=False)
class CorpusSequences:
    """Sequences of a corpus by their numbers; token ids are read when they are needed.

    Attributes:
        corpus: holds them.
        split: train or heldout.
        numbers: which [S].
    """

    corpus: TokenCorpus
    split: Split
    numbers: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sequence, special ones included [S]."""
        return self.corpus.lengths(self.split)[self.numbers]

    @property
    def num_prefix(self) -> int:
        """Special tokens at the start of each."""
        return self.corpus.num_prefix

    @property
    def num_suffix(self) -> int:
        """Special tokens at the end of each."""
        return self.corpus.num_suffix

    def take(self, numbers: NDArray[np.int64]) -> Sequence[TokenIds]:
        """The token ids of some of them."""
        return self.corpus.batch(self.split, self.numbers[numbers]).token_ids


class SequenceBatch(NamedTuple):
    """Some sequences side by side."""

    number_B: NDArray[np.int64]  # which of the sequences
    tokens: TokenBatch


def token_batches(subject: Subject, sequences: Sequences, batch_tokens: int = BATCH_TOKENS) -> Iterator[SequenceBatch]:
    """Every sequence once, those of like length together, the longest first.

    Args:
        subject: the model that is to read them.
        sequences: what to read.
        batch_tokens: most tokens of a batch, padding included; or one sequence.

    Raises:
        SubjectError: a sequence is longer than the model takes.
    """
    lengths_S = sequences.lengths
    _check_lengths(subject, int(lengths_S.max(initial=0)))
    for number_B in like_lengths(lengths_S, batch_tokens):
        token_ids = sequences.take(number_B)
        yield SequenceBatch(number_B, token_batch(subject, token_ids, sequences.num_prefix, sequences.num_suffix))


def text_activations(
    subject: Subject, hooks: Sequence[ResolvedHook], sequences: Sequences, batch_tokens: int = BATCH_TOKENS
) -> dict[HookPoint, Tensor]:
    """Activations of all tokens of the text in the order of the sequences, each [N, D], in the model's number format.

    All are held at once, on the model's device: for as many sequences as fit there.

    Raises:
        SubjectError: a sequence is longer than the model takes, or the model did not pass one of the hook points.
    """
    rows_S = np.maximum(sequences.lengths.astype(np.int64) - sequences.num_prefix - sequences.num_suffix, 0)
    start_S, num_rows = np.cumsum(rows_S) - rows_S, int(rows_S.sum())
    acts: dict[HookPoint, Tensor] = {}
    for number_B, batch in token_batches(subject, sequences, batch_tokens):
        found = text_rows(subject, hooks, batch)
        row_N = torch.from_numpy(start_S[number_B])[found.sequence_N] + found.place_N - sequences.num_prefix
        for point, acts_ND in found.acts.items():
            whole_ND = acts.setdefault(point, acts_ND.new_empty(num_rows, acts_ND.shape[1]))
            whole_ND.index_copy_(0, row_N.to(acts_ND.device), acts_ND)
    return acts or {hook.point: torch.empty(0, hook.width, device=subject.device) for hook in hooks}


def _check_lengths(subject: Subject, longest: int) -> None:
    limit = subject.max_positions
    if limit is not None and longest > limit:
        message = (
            f"A sequence has {longest:,} tokens, and the model ({type(subject.model).__name__}) takes at most "
            f"{limit:,}. Cut it into shorter ones."
        )
        raise SubjectError(message)
