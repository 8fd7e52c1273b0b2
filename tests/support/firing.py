"""Texts as a watch sees them, with features that fire as often as a test says."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mistudio.monitor.drift.profile import FiringProfile, Profile
from mistudio.monitor.records import Fired, Observation, Origin

URI = "sae/0123456789abcdef"


def observation(
    number: int,
    features: Sequence[int] = (),
    origin: Origin | None = None,
    max_W: Sequence[float] = (),
    sample: int = 0,
    exchange: str = "",
    strings: tuple[str, ...] | None = None,
) -> Observation:
    """A sample in which some features fired on one token each."""
    feature_A = np.array(sorted(features), dtype=np.int64)
    ones_A = np.ones(len(feature_A))
    fired = Fired(feature_A, ones_A.astype(np.int64), (feature_A + 1).astype(np.float32))
    values_W = np.array(max_W, dtype=np.float32)
    return Observation(
        exchange=exchange or f"r{number}",
        sample=sample,
        time=1000.0 + number,
        origin=origin or Origin(model="m", endpoint="predictor"),
        num_tokens=10,
        reply_from=None,
        max_W=values_W,
        place_W=np.zeros(len(values_W), dtype=np.int64),
        top_W=values_W,
        fired={URI: fired},
        strings=strings,
    )


def drawn(
    share_F: Sequence[float], num_texts: int, seed: int, first: int = 0, origin: Origin | None = None
) -> Iterator[Observation]:
    """Texts in which each feature fires by its share."""
    draw = np.random.default_rng(seed)
    for number in range(num_texts):
        yield observation(first + number, np.flatnonzero(draw.random(len(share_F)) < share_F).tolist(), origin)


def profile_of(share_F: Sequence[float], num_texts: int, seed: int = 0) -> Profile:
    """A reference of so many texts, drawn by these shares."""
    texts_F: NDArray[np.int64] = np.random.default_rng(seed).binomial(num_texts, share_F)
    fired: Mapping[str, FiringProfile] = {URI: FiringProfile(num_texts, 10 * num_texts, texts_F, texts_F)}
    return Profile(fired)
