"""Which tokens go with a feature, and how alike its strongest contexts are.

Shape legend: F features, V vocabulary, N tokens of the sample, C contexts, W tokens of a window.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mistudio.find.sample import Sample

_AROUND = 3  # tokens before and after the peak that contexts are compared by
_PRIOR = 1.0  # tokens added to what is expected, so that a token seen once does not lead


class Associated(NamedTuple):
    """The tokens that go with each feature, best first: their ids and the figure they are ranked by."""

    tokens: list[list[int]]
    values: list[list[float]]


class Associations(NamedTuple):
    """By two figures."""

    lift: Associated  # times as often as by chance
    mean: Associated  # mean activation over all occurrences


def associations(sample: Sample, vocab_size: int, count: int) -> Associations:
    """The tokens most associated with each feature, counted exactly on the sample.

    By lift: the occurrences on which the feature fires, over those expected if it fired on all tokens alike, plus one.
    By mean activation: the sum over occurrences of the token, over their number plus one.
    """
    size = max(vocab_size, int(sample.token_id.max(initial=-1)) + 1)
    ones_N = np.ones(sample.num_tokens)
    is_token_VN = sparse.csr_array(
        (ones_N, (sample.token_id, np.arange(sample.num_tokens))), shape=(size, sample.num_tokens)
    )
    occurrences_V = np.bincount(sample.token_id, minlength=size)
    acts_NF = sample.acts_NF.astype(np.float64)
    fires_NF = sparse.csr_array((np.ones_like(acts_NF.data), acts_NF.indices, acts_NF.indptr), shape=acts_NF.shape)
    density_F = np.asarray(fires_NF.sum(axis=0)) / max(sample.num_tokens, 1)
    fired, summed = ((is_token_VN @ each).tocoo() for each in (fires_NF, acts_NF))
    expected = occurrences_V[fired.row] * density_F[fired.col]
    lift = _largest(fired.col, fired.row, fired.data / (expected + _PRIOR), sample.acts_NF.shape[1], count)
    mean = _largest(
        summed.col, summed.row, summed.data / (occurrences_V[summed.row] + _PRIOR), sample.acts_NF.shape[1], count
    )
    return Associations(lift, mean)


def coherence(
    token_ids: Sequence[NDArray[np.int32]], peaks: Sequence[int], tokens: Sequence[str], chance: float
) -> float:
    """How alike contexts are: 1 if all have the same token at one place near the peak, 0 if no more than by chance.

    For each place from three tokens before the peak to three behind it, the share of pairs of contexts that have the
    same token there (Simpson's index of concentration, 1949), letters in either case and without blanks around, less
    what chance gives and over what that leaves (as in Cohen's kappa, 1960). The place where they agree most counts:
    a feature may be about the token, the one before it, or the one that follows. Broad features (any name, any
    string) have a low coherence and may be meaningful all the same.

    Args:
        token_ids: the sequence of each context.
        peaks: the place of its peak in each.
        tokens: readable tokens by id.
        chance: share of pairs of tokens of the corpus that are the same.

    Returns:
        NaN for fewer than two contexts.
    """
    if len(token_ids) < 2:
        return float("nan")
    best = 0.0
    for shift in range(-_AROUND, _AROUND + 1):
        places = zip(token_ids, peaks, strict=True)
        inside = [(ids, peak + shift) for ids, peak in places if 0 <= peak + shift < len(ids)]
        counts = Counter(_plain(tokens[ids[place]]) for ids, place in inside)
        same = sum(count * (count - 1) for count in counts.values()) / (len(peaks) * (len(peaks) - 1))
        best = max(best, (same - chance) / (1 - chance))
    return best


def chance_agreement(sample: Sample, tokens: Sequence[str]) -> float:
    """Share of pairs of tokens of the sample that are the same, as :func:`coherence` compares them."""
    counts: Counter[str] = Counter()
    for token, count in enumerate(np.bincount(sample.token_id).tolist()):
        if count:
            counts[_plain(tokens[token])] += count
    total = sample.num_tokens
    return sum(count * (count - 1) for count in counts.values()) / (total * (total - 1)) if len(counts) > 1 else 0.0


def _plain(token: str) -> str:
    """A token without blanks around it, in small letters; as it is where it is blank."""
    return token.strip().lower() or token


def _largest(
    feature: NDArray[np.int32], token: NDArray[np.int32], value: NDArray[np.float64], num_features: int, count: int
) -> Associated:
    order = np.lexsort((token, -value, feature))
    feature, token, value = feature[order], token[order], value[order]
    starts = np.searchsorted(feature, np.arange(num_features + 1))
    ends = np.minimum(starts[:-1] + count, starts[1:])
    spans = list(zip(starts[:-1].tolist(), ends.tolist(), strict=True))
    return Associated([token[a:b].tolist() for a, b in spans], [value[a:b].tolist() for a, b in spans])
