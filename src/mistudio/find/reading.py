"""What the model reads when a feature is tried in it: the tokens around the peaks of its contexts.

Shape legend: P contexts, B contexts of a batch, T tokens, D width of a hook point.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mistudio.corpus.reader import TokenCorpus
from mistudio.find.contexts import TopContexts
from mistudio.instrument import Ends, ListedSequences, token_batches
from mistudio.sae import SparseAutoencoder
from mistudio.subject import Subject

LOGIT_BYTES = 32 << 20  # of one pass in float32; two such tensors are alive at once
BATCH_TOKENS = 2048


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


class Batch(NamedTuple):
    """Some of them side by side."""

    places: NDArray[np.int64]  # which contexts [B]
    ids: Tensor  # [B, T]
    mask: Tensor | None
    text: Tensor  # which tokens are text [B, T], on the CPU


def readings(corpus: TokenCorpus, top: TopContexts, features: range, count: int, before: int, after: int) -> Readings:
    """The first ``count`` contexts of ``features``, from ``before`` tokens before the peak to ``after`` behind it."""
    span = slice(features.start, features.stop)
    feature, rank = np.nonzero(top.ints_FC["document"][span, :count] >= 0)
    place = (feature + features.start, rank)
    rows = corpus.batch("train", top.ints_FC["sequence"][place])
    peak = (top.ints_FC["position"][place] - rows.start + corpus.num_prefix).astype(np.int64)
    first = np.maximum(peak - before, corpus.num_prefix)
    token_ids = [
        np.concatenate([ids[: corpus.num_prefix], ids[start : middle + after + 1]])
        for ids, start, middle in zip(rows.token_ids, first.tolist(), peak.tolist(), strict=True)
    ]
    return Readings(place[0], rank, peak - first + corpus.num_prefix, token_ids)


def batches(hooked: HookedSubject, read: Readings) -> Iterator[Batch]:
    """Batches of like length whose logits fit the memory set aside for them."""
    tokens = max(min(LOGIT_BYTES // (4 * hooked.subject.vocab_size), BATCH_TOKENS), 1)
    for places, batch in token_batches(
        hooked.subject, ListedSequences(read.token_ids, hooked.corpus.num_prefix), tokens
    ):
        yield Batch(places, *batch)
