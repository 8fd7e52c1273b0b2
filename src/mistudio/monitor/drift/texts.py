"""From observations to texts: one an exchange, with what fired in any of its samples.

Shape legend: A features that fired, W watched columns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.records import Fired, Observation, Origin


class FiredIn(NamedTuple):
    """Features that fired in a text, each once, ascending."""

    feature_A: NDArray[np.int64]
    count_A: NDArray[np.int64]  # tokens


class TextSeen(NamedTuple):
    """An exchange as one text."""

    exchange: str
    time: float
    origin: Origin
    num_tokens: int
    fired: Mapping[str, FiredIn]  # by autoencoder
    max_W: NDArray[np.float32]  # NaN where a column could be read in no sample


def texts_of(observations: Iterable[Observation]) -> Iterator[TextSeen]:
    """One text an exchange; observations of one stand one after the other."""
    for exchange, own in groupby(observations, key=lambda one: one.exchange):
        yield _joined(exchange, list(own))


def _joined(exchange: str, samples: Sequence[Observation]) -> TextSeen:
    first = samples[0]
    uris = dict.fromkeys(uri for one in samples for uri in one.fired)
    fired = {uri: _once([one.fired[uri] for one in samples if uri in one.fired]) for uri in uris}
    max_W = first.max_W
    for one in samples[1:]:
        max_W = np.fmax(max_W, one.max_W)
    return TextSeen(exchange, first.time, first.origin, sum(one.num_tokens for one in samples), fired, max_W)


def _once(parts: Sequence[Fired]) -> FiredIn:
    feature_A, place_A = np.unique(np.concatenate([part.feature_A for part in parts]), return_inverse=True)
    count_A = np.concatenate([part.count_A for part in parts])
    return FiredIn(feature_A, np.bincount(place_A, count_A, minlength=len(feature_A)).astype(np.int64))
