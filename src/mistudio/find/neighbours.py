"""Which features lie near each other: by decoder direction, and by firing together.

Directions are compared block by block. What fires together is counted on the sample of tokens: exactly there, as
products of sparse matrices for a block of features at a time; no matrix of features times features is ever held.

Shape legend: F features, R features of a block, D width of the decoder's rows, N tokens of the sample, n neighbours.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from mistudio.evaluate.cosines import cosine_blocks
from mistudio.features import RELATIONS
from mistudio.find.sample import Sample
from mistudio.progress import progress

_BLOCK_PAIRS = 1 << 22  # of features that fire together, in one block
_MAX_PAIRS = 1 << 28  # multiplications in all; tokens behind those that they are enough for are left out
_MIN_TOGETHER = 5  # tokens; fewer say little, and the PMI of rare features would be all chance


class Nearest(NamedTuple):
    """The nearest features of each, best first; -1 where there are no more."""

    other: NDArray[np.int32]  # [F, n]
    value: NDArray[np.float32]


def nearest_directions(W_dec_FD: Tensor, count: int) -> Nearest:
    """The features with the largest cosines between decoder directions."""
    nearest = min(count, len(W_dec_FD) - 1)
    others, values = [], []
    for start, cosines_RF in cosine_blocks(W_dec_FD, W_dec_FD):
        place_R = torch.arange(len(cosines_RF), device=cosines_RF.device)
        cosines_RF[place_R, start + place_R] = -torch.inf
        top = cosines_RF.topk(nearest, dim=1)
        others.append(top.indices.to(torch.int32).cpu().numpy())
        values.append(top.values.cpu().numpy())
    return Nearest(np.concatenate(others), np.concatenate(values))


def fire_together(sample: Sample, count: int) -> dict[str, Nearest]:
    """The features that go with each most, by three measures over the tokens of the sample.

    * ``correlation``: Pearson's, of the activations, zeros included;
    * ``pmi``: log of how many times as often as by chance both fire (Church and Hanks 1990), in nats;
    * ``jaccard``: tokens on which both fire, over those on which either does.

    Only pairs that fire together on at least five tokens count. Where many features are active, tokens are left out
    from the end of the sample, so that what has to be multiplied is bounded.
    """
    acts_NF = _affordable(sample.acts_NF)
    num_features = acts_NF.shape[1]
    nearest = {name: _empty(num_features, count) for name in RELATIONS[1:]}
    with progress("Compare features", num_features, "features") as bar:
        for start, block in _measured_blocks(acts_NF):
            for name, values_RF in block.items():
                _fill(nearest[name], start, values_RF, count)
            bar.advance(next(iter(block.values())).shape[0])
    return nearest


def near_duplicates(directions: Nearest, cosine: float) -> NDArray[np.int32]:
    """Groups of features whose directions hang together by cosines of at least ``cosine``.

    Returns:
        The smallest feature of the group that each belongs to [F]; -1 for those that belong to none.
    """
    num_features = len(directions.other)
    row, place = np.nonzero((directions.value >= cosine) & (directions.other >= 0))
    links = sparse.csr_array(
        (np.ones(len(row)), (row, directions.other[row, place])), shape=(num_features, num_features)
    )
    _, label_F = connected_components(links, directed=False)
    _, first, inverse, sizes = np.unique(label_F, return_index=True, return_inverse=True, return_counts=True)
    return np.where(sizes[inverse] > 1, first[inverse], -1).astype(np.int32)


def _affordable(acts_NF: sparse.csr_array) -> sparse.csr_array:
    pairs_N = np.diff(acts_NF.indptr).astype(np.int64) ** 2
    return acts_NF[: int(np.searchsorted(pairs_N.cumsum(), _MAX_PAIRS, side="right"))]


def _measured_blocks(acts_NF: sparse.csr_array) -> Iterator[tuple[int, dict[str, sparse.csr_array]]]:
    """All measures of a block of features with all others [R, F]; nothing where they do not fire together."""
    num_tokens, num_features = acts_NF.shape
    acts_NF = acts_NF.astype(np.float64)
    fires_NF = sparse.csr_array((np.ones_like(acts_NF.data), acts_NF.indices, acts_NF.indptr), shape=acts_NF.shape)
    acts_FN, fires_FN = acts_NF.T.tocsr(), fires_NF.T.tocsr()
    count_F = np.diff(fires_FN.indptr).astype(np.float64)
    mean_F = np.asarray(acts_NF.sum(axis=0)) / max(num_tokens, 1)
    square_F = np.asarray(acts_NF.multiply(acts_NF).sum(axis=0)) / max(num_tokens, 1)
    deviation_F = np.sqrt(np.maximum(square_F - mean_F**2, 0))
    rows = max(_BLOCK_PAIRS // num_features, 1)
    for start in range(0, num_features, rows):
        both_RF = (fires_FN[start : start + rows] @ fires_NF).tocoo()
        products_RF = (acts_FN[start : start + rows] @ acts_NF).tocsr()
        products_RF.sort_indices()
        order = np.lexsort((both_RF.col, both_RF.row))
        row, other, both = both_RF.row[order], both_RF.col[order], both_RF.data[order]
        feature = row + start
        kept = (both >= _MIN_TOGETHER) & (feature != other)
        product = products_RF.data[kept]  # both patterns are the same, in the same order
        row, other, both, feature = row[kept], other[kept], both[kept], feature[kept]
        deviations = deviation_F[feature] * deviation_F[other]
        values = {
            "correlation": (product / max(num_tokens, 1) - mean_F[feature] * mean_F[other])
            / np.where(deviations > 0, deviations, np.inf),
            "pmi": np.log(both * num_tokens / (count_F[feature] * count_F[other])),
            "jaccard": both / (count_F[feature] + count_F[other] - both),
        }
        shape = (min(rows, num_features - start), num_features)
        yield start, {name: sparse.csr_array((each, (row, other)), shape=shape) for name, each in values.items()}


def _fill(nearest: Nearest, start: int, values_RF: sparse.csr_array, count: int) -> None:
    """Write down the largest values of each row; the smaller feature first where two are equal."""
    found = values_RF.tocoo()
    order = np.lexsort((found.col, -found.data, found.row))
    row, other, value = found.row[order], found.col[order], found.data[order]
    starts_R = np.searchsorted(row, np.arange(values_RF.shape[0]))
    rank = np.arange(len(row)) - starts_R[row]
    kept = rank < count
    nearest.other[start + row[kept], rank[kept]] = other[kept]
    nearest.value[start + row[kept], rank[kept]] = value[kept]


def _empty(num_features: int, count: int) -> Nearest:
    shape = (num_features, count)
    return Nearest(np.full(shape, -1, dtype=np.int32), np.full(shape, np.nan, dtype=np.float32))
