"""Texts that repeat one of the last: tried again, or a conversation that is sent anew with each of its turns.

The tests of drift take texts to be exchangeable. A text that comes five times in a row is no five texts: what fires in
it would seem to have become frequent. So a text in which nearly the same fires as in one of the last is counted once.

How like two texts are is the share of the features that fired in either that fired in both (Jaccard), as MinHash
estimates it (Broder 1997): the smallest of many hashes of what fired. Only features that fire in few texts are looked
at: of the others most fire in any two long texts. A text in which hardly any of the rare ones fires is no repeat.

Shape legend: M hashes, N texts that are remembered, A features that fired in a text.
"""

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift.texts import TextSeen

NUM_HASHES = 64
RARE = 0.25  # share of the reference texts up to which a feature is looked at
_FEWEST = 4  # rare features of a text: two with fewer may be alike by chance
_FEWEST_TEXTS = 50  # that have to be known to say what is rare
_PRIME = (1 << 31) - 1
_DRAW = np.random.default_rng(0)
_FACTOR_M = _DRAW.integers(1, _PRIME, size=NUM_HASHES, dtype=np.int64)
_TERM_M = _DRAW.integers(0, _PRIME, size=NUM_HASHES, dtype=np.int64)

Signature = NDArray[np.uint16]


class RecentTexts:
    """The last texts of a stream.

    Args:
        num_texts: that are remembered.
        least_like: share of what fired from which on a text is a repeat.
    """

    def __init__(self, num_texts: int, least_like: float) -> None:
        self._least = least_like
        self._signature_NM = np.zeros((num_texts, NUM_HASHES), dtype=np.uint16)
        self._num_seen = self._num_saved = 0

    def is_repeat(self, key_A: NDArray[np.int64]) -> bool:
        """Whether a text repeats one of the last; it is one of the last from now on.

        Args:
            key_A: of what fired in it, as :func:`rare_keys` has them.
        """
        if len(key_A) < _FEWEST:
            return False
        signature_M = signature(key_A)
        known_NM = self._signature_NM[: min(self._num_seen, len(self._signature_NM))]
        like_N = (known_NM == signature_M).mean(axis=1)
        self.push(signature_M[None])
        return bool((like_N >= self._least).any())

    def push(self, signature_XM: Signature) -> None:
        """Remember texts, the last one last."""
        for signature_M in signature_XM:
            self._signature_NM[self._num_seen % len(self._signature_NM)] = signature_M
            self._num_seen += 1

    def last(self, *, is_whole: bool) -> Signature:
        """What is remembered, oldest first: all of it, or what came since this was last asked."""
        most = len(self._signature_NM)
        count = min(self._num_seen if is_whole else self._num_seen - self._num_saved, most)
        self._num_saved = self._num_seen
        return self._signature_NM[np.arange(self._num_seen - count, self._num_seen) % most]

    def mark_saved(self) -> None:
        """Note that what is remembered is saved already."""
        self._num_saved = self._num_seen


def rare_keys(text: TextSeen, known: Callable[[str], tuple[NDArray[np.int64], int] | None]) -> NDArray[np.int64]:
    """Keys of the rare features that fired in a text, over all autoencoders [A].

    Args:
        text: that was seen.
        known: gives of an autoencoder in how many texts each feature fired, and of how many; None: nothing is known.
    """
    keys = [np.empty(0, dtype=np.int64)]
    for uri, fired in text.fired.items():
        counts = known(uri)
        if counts is not None and counts[1] >= _FEWEST_TEXTS:
            is_rare_A = counts[0][fired.feature_A] <= RARE * counts[1]
            keys.append(_start(uri) + fired.feature_A[is_rare_A])
    return np.concatenate(keys)


def signature(key_A: NDArray[np.int64]) -> Signature:
    """The smallest hashes of some keys [M]."""
    hash_MA = (_FACTOR_M[:, None] * (key_A % _PRIME) + _TERM_M[:, None]) % _PRIME
    smallest_M: Signature = (hash_MA.min(axis=1) & 0xFFFF).astype(np.uint16)
    return smallest_M


def _start(uri: str) -> int:
    """Where the features of an autoencoder begin among the keys of all."""
    return zlib.crc32(uri.encode()) & 0x7FFFFFFF
