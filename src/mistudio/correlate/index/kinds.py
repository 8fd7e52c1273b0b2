"""The approximate indexes, as faiss makes them: untrained ones by kind, filling, opening, and what a search looks at.

All rank unit vectors by inner product. The codes of ``codes`` and ``ivfpq`` are those of 4-bit product quantisation:
two bits a dimension are one of 16 centroids for every two dimensions, and looking up 32 rows at once is a few
instructions (André et al. 2015, "Cache locality is not enough"; faiss calls it fast scan). Before that all is rotated
at random, so that no dimension is much larger than the others and takes the table's range for itself. ``hnsw`` is a
graph (Malkov and Yashunin 2016, arXiv:1603.09320) over rows of 8 bits a dimension.

What is built has the same bytes for any number of threads, and searches run on one: a server that answers several
requests at once gains nothing from sharing one out.

Shape legend: F features, D width of the decoder's rows, R rows of a block, Q queries, N candidates.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.exact_index import ExactIndex
from mistudio.errors import ConfigError, DamagedArtifact

if TYPE_CHECKING:
    from faiss import Index

Approximate = Literal["codes", "ivfpq", "hnsw"]
FEWEST: Mapping[Approximate, int] = {"codes": 16, "ivfpq": 16, "hnsw": 1}  # rows that it can be fitted to

Vectors = NDArray[np.float32]


def specification(kind: Approximate, num_features: int, width: int, config: IndexConfig) -> str:
    """What is made, as faiss's index factory reads it.

    Raises:
        ConfigError: there are too few features.
    """
    if num_features < FEWEST[kind]:
        message = f"kind {kind} needs at least {FEWEST[kind]} features, and there are {num_features}: use flat."
        raise ConfigError(message)
    if kind == "hnsw":
        return f"HNSW{config.links},SQ8"
    together = 4 // config.bits  # dimensions of one code of 4 bits
    codes = -(-width // together)
    made = f"RR{codes * together}"
    if kind == "ivfpq":
        made += f",IVF{min(config.lists or 4 * isqrt(num_features), max(num_features // 8, 1))}"
    return f"{made},PQ{codes}x4fs"


def new_index(made: str, width: int, config: IndexConfig) -> "Index":
    """An index that was not trained yet."""
    faiss = import_faiss()
    index: Index = faiss.index_factory(width, made, faiss.METRIC_INNER_PRODUCT)
    inner = _innermost(index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efConstruction = config.construction
    if hasattr(inner, "pq"):
        inner.pq.cp.min_points_per_centroid = 1  # it would only write a warning to the terminal
    if hasattr(inner, "nlist"):
        inner.cp.min_points_per_centroid = 1
    return index


def fill(index: "Index", training_RD: Vectors, blocks: Iterable[Vectors]) -> None:
    """Fit the index to some rows, and put all rows in; one block is in memory at a time."""
    with one_thread():
        index.train(training_RD)
        for block_RD in blocks:
            index.add(block_RD)


def breadths(index: "Index", most: int) -> list[int]:
    """How much of the index a search may look at, from little to all: lists, or candidates in a graph; 0 for codes."""
    inner = _innermost(index)
    if hasattr(inner, "hnsw"):
        return _doubled(16, most)
    return _doubled(1, inner.nlist) if hasattr(inner, "nlist") else [0]


def candidates_within(index: "Index", breadth: int, most: int) -> int:
    """The most candidates that a search of this breadth gives: a graph is searched as widely as it gives them."""
    return min(breadth, most) if hasattr(_innermost(index), "hnsw") else most


def set_breadth(index: "Index", breadth: int) -> None:
    """Let searches look at so much of the index."""
    inner = _innermost(index)
    if hasattr(inner, "hnsw"):
        inner.hnsw.efSearch = breadth
    elif hasattr(inner, "nprobe"):
        inner.nprobe = breadth


def shortlist(index: "Index", unit_QD: Vectors, count: int) -> NDArray[np.int64]:
    """Candidates of each query, by what the index takes for their cosines [Q, N]; -1 where it finds no more."""
    with one_thread():
        found_QN: NDArray[np.int64] = index.search(unit_QD, count)[1]
    return found_QN


def candidate_cosines(exact: ExactIndex, unit_D: Vectors, feature_N: NDArray[np.int64]) -> Vectors:
    """As :meth:`ExactIndex.cosines`, without a copy of the rows: a third of the time of re-ranking."""
    faiss = import_faiss()
    rows_FD, feature_N = exact.decoder_FD, np.ascontiguousarray(feature_N)
    if not len(feature_N) or feature_N.min() < 0 or feature_N.max() >= len(rows_FD) or not rows_FD.flags.c_contiguous:
        return exact.cosines(unit_D, feature_N)  # what follows reads wherever a number points
    product_N = np.empty(len(feature_N), dtype=np.float32)
    to, of, rows, numbers = (faiss.swig_ptr(each) for each in (product_N, unit_D, rows_FD, feature_N))
    with one_thread():
        faiss.fvec_inner_products_by_idx(to, of, rows, numbers, len(unit_D), 1, len(feature_N))
    cosine_N: Vectors = np.clip(product_N * exact.scale_F[feature_N], -1, 1)
    return cosine_N


def save_index(index: "Index", path: Path) -> None:
    """Write the index to a file."""
    import_faiss().write_index(index, str(path))


def open_faiss(kind: Approximate, path: Path, num_features: int, width: int, name: str) -> "Index":
    """The index of a file. What a graph has is mapped; codes, a sixteenth of the decoder's bytes, are read.

    Raises:
        DamagedArtifact: it is no index, or one of another kind or of something else.
    """
    faiss = import_faiss()
    try:
        index: Index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if kind == "hnsw" else 0)
    except RuntimeError as error:
        message = f"{name} is no index that can be read: {str(error)[:200]}"
        raise DamagedArtifact(message) from error
    inner = _innermost(index)
    found = "hnsw" if hasattr(inner, "hnsw") else "ivfpq" if hasattr(inner, "nlist") else "codes"
    if found != kind or not hasattr(inner, "hnsw" if kind == "hnsw" else "pq"):
        message = f"{name} holds no index of kind {kind}."
        raise DamagedArtifact(message)
    if (index.ntotal, index.d, index.metric_type) != (num_features, width, faiss.METRIC_INNER_PRODUCT):
        message = f"{name} is an index of {index.ntotal:,} rows of {index.d}, and not of {num_features:,} of {width}."
        raise DamagedArtifact(message)
    return index


def _innermost(index: "Index") -> Any:
    """The index behind what its vectors are changed by first."""
    faiss = import_faiss()
    outer = faiss.downcast_index(index)
    return faiss.downcast_index(outer.index) if hasattr(outer, "chain") else outer


def _doubled(start: int, end: int) -> list[int]:
    """Numbers from start to end, each twice the one before."""
    return [*(start << step for step in range(end.bit_length()) if start << step < end), end]


@contextmanager
def one_thread() -> Iterator[None]:
    """Until the end what this thread asks of faiss is not shared out; other threads go on as before."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def import_faiss() -> Any:
    """The library faiss, which is an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        message = "An index other than flat needs faiss: pip install 'mistudio[index]', or make one of kind flat."
        raise ConfigError(message) from error
    return faiss
