"""What the model reads when a feature is tried in it: the tokens around the peaks of its contexts.

Shape legend: P contexts, B contexts of a batch, T tokens, D width of a hook point.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mistudio.corpus.reader import TokenCorpus
from mistudio.find.contexts import TopContexts
from mistudio.instrument import Ends, ListedSequences, token_batches
from mistudio.sae import SparseAutoencoder
from mistudio.subject import Subject
from mistudio.subject.footprint import ModelShape

LOGIT_BYTES = 32 << 20  # of one pass in float32; two such tensors are alive at once
GRADIENT_BYTES = 512 << 20  # of the activations that a pass with gradients keeps
BATCH_TOKENS = 2048
_KEPT_IN_STREAM = 10  # norms, queries, keys, values and sums, each as wide as the stream


class HookedSubject(NamedTuple):
    """A model with an autoencoder at its hook points, and the text it reads."""

    subject: Subject
    ends: Ends
    sae: SparseAutoencoder
    corpus: TokenCorpus


class Readings(NamedTuple):
    """Contexts to be read, in the order of their features, each with special tokens first as the model expects."""

    feature: NDArray[np.int64]  # [P]
    rank: NDArray[np.int64]  # of the context
    peak: NDArray[np.int64]  # place of the peak in what is read
    token_ids: list[NDArray[np.int32]]

    def take(self, rows: NDArray[np.int64]) -> "Readings":
        """Some of them, in this order."""
        texts = [self.token_ids[row] for row in rows.tolist()]
        return Readings(self.feature[rows], self.rank[rows], self.peak[rows], texts)


class Places(NamedTuple):
    """Where contexts have their peaks, by feature and rank; each [P]."""

    feature: NDArray[np.int64]
    rank: NDArray[np.int64]  # of the context
    sequence: NDArray[np.int32]  # of the training split
    position: NDArray[np.int32]  # of the peak, in its document

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Places":
        """Some of them."""
        return Places._make(column[rows] for column in self)

    def first(self, count: int) -> "Places":
        """The first ``count`` contexts of each feature."""
        return self.take(self.rank < count)

    def of(self, features: NDArray[np.int64]) -> "Places":
        """Those of some features."""
        return self.take(np.isin(self.feature, features))


class Batch(NamedTuple):
    """Some of them side by side."""

    places: NDArray[np.int64]  # which contexts [B]
    ids: Tensor  # [B, T]
    mask: Tensor | None
    text: Tensor  # which tokens are text [B, T], on the CPU


def traced_bytes(shape: ModelShape, itemsize: int) -> int:
    """What a pass with gradients keeps of a token in one block, in bytes."""
    return (shape.mlp_copies * max(shape.d_mlp, shape.d_model) + _KEPT_IN_STREAM * shape.d_model) * itemsize


def places_of(top: TopContexts, features: NDArray[np.int64], count: int) -> Places:
    """The first ``count`` contexts that a search has kept of some features."""
    row, rank = np.nonzero(top.ints_FC["document"][features, :count] >= 0)
    place = (features[row], rank)
    return Places(*place, top.ints_FC["sequence"][place], top.ints_FC["position"][place])


def readings(corpus: TokenCorpus, places: Places, before: int, after: int) -> Readings:
    """Contexts to be read, from ``before`` tokens before the peak to ``after`` behind it."""
    rows = corpus.batch("train", places.sequence)
    peak = (places.position - rows.start + corpus.num_prefix).astype(np.int64)
    first = np.maximum(peak - before, corpus.num_prefix)
    token_ids = [
        np.concatenate([ids[: corpus.num_prefix], ids[start : middle + after + 1]])
        for ids, start, middle in zip(rows.token_ids, first.tolist(), peak.tolist(), strict=True)
    ]
    return Readings(places.feature, places.rank, peak - first + corpus.num_prefix, token_ids)


def batches(hooked: HookedSubject, token_ids: Sequence[NDArray[np.int32]], tokens: int) -> Iterator[Batch]:
    """What is to be read side by side, those of like length together: so many tokens, or one of them."""
    sequences = ListedSequences(token_ids, hooked.corpus.num_prefix)
    for places, batch in token_batches(hooked.subject, sequences, tokens):
        yield Batch(places, *batch)
