"""A map of the decoder's directions in two dimensions, and the clusters that features form on it.

Shape legend: F features, D width of the decoder's rows.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mistudio.find.neighbours import nearest_directions
from mistudio.parallel import one_thread

_UMAP_NEIGHBOURS = 15
_MIN_FEATURES = 10  # below, neighbourhoods mean nothing
_CLUSTER_SIZE = 5


class Projection(NamedTuple):
    """Where each feature lies, and its cluster; -1 where it belongs to none."""

    place: NDArray[np.float32]  # [F, 2]
    cluster: NDArray[np.int32]  # [F]


def lay_out(W_dec_FD: Tensor, seed: int) -> Projection:
    """UMAP by cosine (McInnes et al. 2018, arXiv:1802.03426), then HDBSCAN on the map (Campello et al. 2013).

    The same bytes for the same seed on one machine. Fewer than ten directions are laid out by their principal
    components, in one cluster.
    """
    if len(W_dec_FD) < _MIN_FEATURES:
        return Projection(_principal_components(W_dec_FD), np.zeros(len(W_dec_FD), dtype=np.int32))
    place_F2 = _umap(W_dec_FD, seed)
    return Projection(place_F2, _clusters(place_F2))


def _principal_components(W_dec_FD: Tensor) -> NDArray[np.float32]:
    directions_FD = W_dec_FD.detach().double().cpu().numpy()
    left, sizes, _ = np.linalg.svd(directions_FD - directions_FD.mean(axis=0), full_matrices=False)
    place = (left * sizes)[:, :2]
    return np.pad(place, ((0, 0), (0, 2 - place.shape[1]))).astype(np.float32)


def _umap(W_dec_FD: Tensor, seed: int) -> NDArray[np.float32]:
    count = len(W_dec_FD)
    nearest = nearest_directions(W_dec_FD, min(_UMAP_NEIGHBOURS, count) - 1)
    # UMAP counts each direction as its own nearest.
    other_FN = np.concatenate([np.arange(count, dtype=np.int32)[:, None], nearest.other], axis=1)
    distance_FN = np.pad(1 - nearest.value, ((0, 0), (1, 0))).clip(min=0)
    # numba gives the OpenMP that it shares with PyTorch all cores, whatever was asked for: the end puts that right.
    with one_thread(), warnings.catch_warnings():
        # That a seed means one thread, and that given neighbours leave nothing to place new directions by.
        warnings.simplefilter("ignore")
        from umap import UMAP

        mapper = UMAP(
            n_neighbors=other_FN.shape[1],
            metric="cosine",
            precomputed_knn=(other_FN, distance_FN),
            force_approximation_algorithm=True,
            # Spectral places need a solver that may not converge where directions form islands.
            init="random",
            random_state=seed,
            n_jobs=1,
        )
        places: NDArray[np.float32] = mapper.fit_transform(W_dec_FD.detach().float().cpu().numpy())
    return np.nan_to_num(places).astype(np.float32)


def _clusters(place_F2: NDArray[np.float32]) -> NDArray[np.int32]:
    from sklearn.cluster import HDBSCAN

    labels: NDArray[np.int32] = HDBSCAN(min_cluster_size=_CLUSTER_SIZE, copy=True).fit_predict(place_F2)
    return labels.astype(np.int32)
