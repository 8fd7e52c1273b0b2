"""Vectors of texts in a file, and which of them point where another one does.

A file holds a unit vector for each text in float16, in the order of the texts. It is read in blocks, so that memory
does not grow with the texts. The mean of all vectors is taken off before their lengths are, where the embedder says so.
What was embedded is kept while the file is made, so that a run that was stopped goes on.

Shape legend: N texts, D width of the vectors, B texts of a block, K nearest.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.concepts.embedders import Embedder
from mistudio.errors import DamagedArtifact
from mistudio.progress import progress

VECTORS_NAME, MEAN_NAME, ABOUT_NAME = "vectors.f16", "mean.npy", "vectors.json"
_RAW_NAME, _RAW_ABOUT_NAME = "raw.f32", "raw.json"  # while they are made
_LOCK_NAME = "lock"
_BLOCK_BYTES = 16 << 20  # of float32 in memory at once
_LEAST_LENGTH = 1e-6  # of a vector that has a direction

Vectors = NDArray[np.float32]


class NearestTexts(NamedTuple):
    """Texts by how near they are."""

    number_K: NDArray[np.int64]
    cosine_K: Vectors


def write_text_vectors(texts: Iterable[str], count: int, embedder: Embedder, folder: Path) -> None:
    """Embed texts and write their vectors into a folder, unless they are there; what a stopped run made is kept.

    Of several processes one makes them, and the others wait.

    Args:
        texts: in their order.
        count: how many there are, N.
        embedder: makes the vectors.
        folder: is made where it is not there.

    Raises:
        InputError: as the embedder has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go with the file
        if not (folder / ABOUT_NAME).is_file():
            _write(texts, count, embedder, folder)


def _write(texts: Iterable[str], count: int, embedder: Embedder, folder: Path) -> None:
    raw = folder / _RAW_NAME
    width, mean_D = _embed(texts, count, embedder, raw)
    mean_D = mean_D if embedder.centred else np.zeros_like(mean_D)
    with (folder / f"{VECTORS_NAME}.part").open("wb") as file:
        for rows_BD in _blocks(raw, np.dtype(np.float32), width):
            file.write(_unit(rows_BD - mean_D).astype(np.float16).tobytes())
    (folder / f"{VECTORS_NAME}.part").replace(folder / VECTORS_NAME)
    np.save(folder / MEAN_NAME, mean_D)
    about = {"identity": embedder.identity, "texts": count, "width": width}
    (folder / f"{ABOUT_NAME}.part").write_text(json.dumps(about), encoding="utf-8")
    (folder / f"{ABOUT_NAME}.part").replace(folder / ABOUT_NAME)
    raw.with_name(_RAW_ABOUT_NAME).unlink()
    raw.unlink()


class TextVectors:
    """Vectors that lie in a folder; any number of threads may search them.

    Args:
        folder: that :func:`write_text_vectors` wrote.
        identity: of the embedder.
        count: how many there have to be.

    Raises:
        DamagedArtifact: they are by another embedder, or of other texts.
    """

    def __init__(self, folder: Path, identity: str, count: int) -> None:
        about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
        self._path, self.width = folder / VECTORS_NAME, int(about["width"])
        expected = count * self.width * 2
        if about["identity"] != identity or about["texts"] != count or self._path.stat().st_size != expected:
            message = f"{folder} does not hold the vectors of these texts: remove it, and they are made anew."
            raise DamagedArtifact(message)
        self._mean_D: Vectors = np.load(folder / MEAN_NAME, allow_pickle=False)

    def nearest(self, vector_D: Vectors, count: int) -> NearestTexts:
        """The texts whose vectors point most nearly where this one does; none where it points nowhere."""
        import torch

        query_D = _unit((vector_D - self._mean_D)[None])[0]
        best = NearestTexts(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        if not query_D.any():
            return best
        start = 0
        for rows_BD in _blocks(self._path, np.dtype(np.float16), self.width):
            # Torch makes float32 of float16 four times as fast as NumPy, which is most of what a search takes.
            cosine_B = (torch.from_numpy(rows_BD).float() @ torch.from_numpy(query_D)).numpy()
            number_B = np.arange(start, start + len(cosine_B))
            best = _best(np.concatenate([best.number_K, number_B]), np.concatenate([best.cosine_K, cosine_B]), count)
            start += len(cosine_B)
        return best


def _embed(texts: Iterable[str], count: int, embedder: Embedder, raw: Path) -> tuple[int, Vectors]:
    """Write the vectors of all texts as they are; return their width and their mean."""
    there = _finished(raw, embedder)
    left = islice(texts, there, None)
    width_path = raw.with_name(_RAW_ABOUT_NAME)
    width = int(json.loads(width_path.read_text())["width"]) if there else 0
    with raw.open("ab") as file, progress("Embed explanations", count - there, "texts") as bar:
        while some := list(islice(left, embedder.at_once)):
            vectors_BD = np.ascontiguousarray(embedder.embed(some), dtype=np.float32)
            if not width:
                width = vectors_BD.shape[1]
                width_path.write_text(json.dumps({"identity": embedder.identity, "width": width}), encoding="utf-8")
            file.write(vectors_BD.tobytes())
            bar.advance(len(some))
    total_D = np.zeros(width, dtype=np.float64)
    for rows_BD in _blocks(raw, np.dtype(np.float32), width):
        total_D += rows_BD.sum(axis=0, dtype=np.float64)
    return width, (total_D / max(count, 1)).astype(np.float32)


def _finished(raw: Path, embedder: Embedder) -> int:
    """How many texts an earlier run has embedded; half a vector at the end is cut off."""
    about = raw.with_name(_RAW_ABOUT_NAME)
    known = json.loads(about.read_text(encoding="utf-8")) if about.is_file() and raw.is_file() else {}
    if known.get("identity") != embedder.identity:
        raw.unlink(missing_ok=True)
        return 0
    each = int(known["width"]) * 4
    there = raw.stat().st_size // each
    os.truncate(raw, there * each)
    return int(there)


def _blocks(path: Path, kind: np.dtype[np.floating], width: int) -> Iterator[NDArray[np.floating]]:
    """The vectors of a file, some at a time [B, D]; the next ones take the place of those before."""
    rows = max(_BLOCK_BYTES // max(width * 4, 1), 1)
    held = memoryview(bytearray(rows * width * kind.itemsize))
    with path.open("rb") as file:
        while count := file.readinto(held):
            yield np.frombuffer(held[:count], dtype=kind).reshape(-1, width)


def _unit(rows_BD: NDArray[np.floating]) -> Vectors:
    """Rows of length 1; those without a direction are zeros."""
    rows_BD = rows_BD.astype(np.float32)
    length_B1 = np.linalg.norm(rows_BD, axis=1, keepdims=True)
    unit_BD: Vectors = np.where(length_B1 > _LEAST_LENGTH, rows_BD / np.maximum(length_B1, _LEAST_LENGTH), 0)
    return unit_BD


def _best(number_B: NDArray[np.int64], cosine_B: Vectors, count: int) -> NearestTexts:
    """The largest cosines, largest first; of equal ones the first texts."""
    if len(cosine_B) > count:
        least = np.partition(cosine_B, len(cosine_B) - count)[len(cosine_B) - count]
        kept = np.flatnonzero(cosine_B >= least)
        number_B, cosine_B = number_B[kept], cosine_B[kept]
    order_K = np.lexsort((number_B, -cosine_B))[:count]
    return NearestTexts(number_B[order_K], cosine_B[order_K])
