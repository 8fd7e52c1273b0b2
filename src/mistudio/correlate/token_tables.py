"""From tokens to features: the tables of what was found, turned round.

Each is read once, from end to end, when it is first asked for. What comes out are four numbers a pair of token and
feature, by token and then by feature, in a file in the private folder of this machine: memory grows with neither the
features nor the pairs. Pairs are counted by token while they are written as they come, and then put where they belong.

Shape legend: P pairs of token and feature, R rows of a row group, V tokens of the vocabulary, H pairs of one token.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.artifacts.scratch import scratch_folder
from mistudio.errors import StorageError
from mistudio.features import CONTEXTS, FEATURES
from mistudio.features.tables import TableReader

FOLDER = "token-tables"  # in the private folder of this machine
_PAIR = np.dtype([("token", "<i4"), ("feature", "<i4"), ("value", "<f4"), ("mean", "<f4")])
_PAIRS_AT_ONCE = 1 << 18
_PAIRS_NAME, _STARTS_NAME, _RAW_NAME = "pairs.npy", "starts.npy", "raw"
_KEY_DIGITS = 16

PairsFrom = Callable[[Artifact], Iterator[NDArray[np.void]]]


class OfToken(NamedTuple):
    """The features that go with one token."""

    feature_H: NDArray[np.int64]
    value_H: NDArray[np.float64]  # contexts: share of the feature's top contexts; lift: how many times as often
    mean_H: NDArray[np.float64]  # contexts: mean activation at those peaks; lift: the same as the value


class _Pairs:
    """Pairs by token, then by feature, in a folder.

    Args:
        folder: that :func:`_write` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._pair_P = np.load(folder / _PAIRS_NAME, mmap_mode="r", allow_pickle=False)
        self._start_V = np.load(folder / _STARTS_NAME, allow_pickle=False)

    def of(self, token: int) -> OfToken:
        known = token < len(self._start_V) - 1
        own = self._pair_P[self._start_V[token] : self._start_V[token + 1]] if known else self._pair_P[:0]
        return OfToken(own["feature"].astype(np.int64), own["value"].astype(np.float64), own["mean"].astype(np.float64))


class TokenTables:
    """Which features go with a token; any number of threads may ask.

    Args:
        features: artifact of kind ``features``.
    """

    def __init__(self, features: Artifact) -> None:
        self._features = features
        self._locks = {name: Lock() for name in _PAIRS_FROM}
        self._pairs: dict[str, _Pairs] = {}

    def contexts(self, token: int) -> OfToken:
        """Features whose top contexts peak on the token.

        Raises:
            StorageError: the file that is searched cannot be made.
        """
        return self._get("contexts").of(token)

    def lift(self, token: int) -> OfToken:
        """Features that fire on the token more often than by chance, as far as the table of features lists them.

        Raises:
            StorageError: the file that is searched cannot be made.
        """
        return self._get("lift").of(token)

    def _get(self, name: str) -> _Pairs:
        with self._locks[name]:
            if name not in self._pairs:
                own = scratch_folder(self._features.store) / FOLDER / self._features.digest[:_KEY_DIGITS]
                self._pairs[name] = _opened(own / name, self._features, _PAIRS_FROM[name])
            return self._pairs[name]


def _opened(folder: Path, features: Artifact, pairs_from: PairsFrom) -> _Pairs:
    """The pairs in a folder, which is made where it is not there, or cannot be read."""
    try:
        return _there(folder) or _made(folder, features, pairs_from)
    except OSError as error:
        message = (
            f"What is searched for tokens cannot be kept in {folder}: {error}. Make room there, or name another folder "
            "in MISTUDIO_SCRATCH."
        )
        raise StorageError(message) from error


def _there(folder: Path) -> _Pairs | None:
    try:
        return _Pairs(folder)
    except (OSError, ValueError, EOFError):
        return None


def _made(folder: Path, features: Artifact, pairs_from: PairsFrom) -> _Pairs:
    """Write the pairs beside their place, then put them there: several processes may make them at once."""
    part = folder.with_name(f".{uuid4().hex}")
    part.mkdir(parents=True)
    try:
        _write(part, pairs_from(features))
        found = _Pairs(part)  # stays open wherever the folder goes
        if _there(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another process was first
                part.replace(folder)
        return found
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(folder: Path, pairs: Iterator[NDArray[np.void]]) -> None:
    """Sort pairs that come by feature by their token, with memory for the vocabulary and some pairs."""
    raw, count_V, num_pairs = folder / _RAW_NAME, np.zeros(1, dtype=np.int64), 0
    with raw.open("wb") as file:
        for some in pairs:
            file.write(some.tobytes())
            more_V = np.bincount(some["token"], minlength=len(count_V))
            more_V[: len(count_V)] += count_V
            count_V, num_pairs = more_V, num_pairs + len(some)
    start_V = np.concatenate([[0], np.cumsum(count_V)])
    # An empty file cannot be mapped: one pair is there, and belongs to no token.
    sorted_P = np.lib.format.open_memmap(folder / _PAIRS_NAME, mode="w+", dtype=_PAIR, shape=(max(num_pairs, 1),))
    next_V = start_V[:-1].copy()
    for some in _blocks(raw):
        some = some[np.argsort(some["token"], kind="stable")]
        token_V, first_V, own_V = np.unique(some["token"], return_index=True, return_counts=True)
        place_P = np.arange(len(some)) + np.repeat(next_V[token_V] - first_V, own_V)
        sorted_P[place_P] = some
        next_V[token_V] += own_V
    sorted_P.flush()
    np.save(folder / _STARTS_NAME, start_V)
    raw.unlink()


def _blocks(raw: Path) -> Iterator[NDArray[np.void]]:
    with raw.open("rb") as file:
        while held := file.read(_PAIRS_AT_ONCE * _PAIR.itemsize):
            yield np.frombuffer(held, dtype=_PAIR)


def _contexts(features: Artifact) -> Iterator[NDArray[np.void]]:
    """The peaks of all top contexts, counted by token and feature; a row group holds all contexts of its features."""
    for rows in TableReader(features, CONTEXTS).ascending(["kind", "value", "peak", "token_ids"]):
        top = rows.filter(pc.equal(rows["kind"], "top")).combine_chunks()
        if not top.num_rows:
            continue
        lists, feature_R = top["token_ids"].chunk(0), top["feature"].to_numpy()
        token_R = lists.values.to_numpy()[lists.offsets.to_numpy()[:-1] + top["peak"].to_numpy()]
        pair_P, at_R, count_P = np.unique(
            np.stack([feature_R, token_R], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        sum_P = np.bincount(at_R.ravel(), weights=top["value"].to_numpy())
        contexts_P = np.bincount(feature_R - feature_R[0])[pair_P[:, 0] - feature_R[0]]
        yield _paired(pair_P[:, 1], pair_P[:, 0], count_P / contexts_P, sum_P / count_P)


def _lift(features: Artifact) -> Iterator[NDArray[np.void]]:
    """The lift tokens of all features."""
    for rows in TableReader(features, FEATURES).ascending(["lift_token_ids", "lift_values"]):
        length_R = pc.fill_null(pc.list_value_length(rows["lift_token_ids"]), 0).to_numpy()
        feature_P = np.repeat(rows["feature"].to_numpy(), length_R)
        token_P, value_P = (pc.list_flatten(rows[name]).to_numpy() for name in ("lift_token_ids", "lift_values"))
        yield _paired(token_P, feature_P, value_P, value_P)


def _paired(token: np.ndarray, feature: np.ndarray, value: np.ndarray, mean: np.ndarray) -> NDArray[np.void]:
    pair_P = np.empty(len(token), dtype=_PAIR)
    for name, column in zip(_PAIR.names or (), (token, feature, value, mean), strict=True):
        pair_P[name] = column
    return pair_P


_PAIRS_FROM: dict[str, PairsFrom] = {"contexts": _contexts, "lift": _lift}
