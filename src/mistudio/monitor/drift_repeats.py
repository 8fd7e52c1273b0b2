"""Texts that repeat one of the last: tried again, or a conversation that is sent anew with each of its turns.

The tests of drift take texts to be exchangeable. A text that comes five times in a row is no five texts: what fires in
it would seem to have become frequent. So a text in which nearly the same fires as in one of the last is counted once.

How like two texts are is the share of the features that fired in either that fired in both (Jaccard), as MinHash
estimates it (Broder 1997): the smallest of many hashes of what fired. Texts in which
few features fire are never taken for repeats.

Shape legend: M hashes, N texts that are remembered, A features that fired in a text.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift_texts import TextSeen

NUM_HASHES = 64
FEWEST = 32  # features of a text: two with fewer are often alike by chance
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

    def is_repeat(self, text: TextSeen) -> bool:
        """Whether a text repeats one of the last; it is one of the last from now on."""
        signature_M = signature(text)
        if signature_M is None:
            return False
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


def signature(text: TextSeen) -> Signature | None:
    """The smallest hashes of what fired in a text [M]; None: too few did."""
    keys = [_start(uri) + fired.feature_A for uri, fired in text.fired.items()]
    if sum(map(len, keys)) < FEWEST:
        return None
    key_A = np.concatenate(keys) % _PRIME
    hash_MA = (_FACTOR_M[:, None] * key_A + _TERM_M[:, None]) % _PRIME
    smallest_M: Signature = (hash_MA.min(axis=1) & 0xFFFF).astype(np.uint16)
    return smallest_M


def _start(uri: str) -> int:
    """Where the features of an autoencoder begin among the keys of all."""
    return zlib.crc32(uri.encode()) & 0x7FFFFFFF
