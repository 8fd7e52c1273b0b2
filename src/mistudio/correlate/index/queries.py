"""Queries that an index is tried with: what people look up, and what is hard to find.

A decoder's rows are nearly orthogonal, so that beside the row that a query was made of its neighbours are little more
than chance, and an index that is good at noisy rows alone is good at nothing. Hence directions unlike any row too.

Shape legend: F features, D width of the decoder's rows, Q queries.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mistudio.correlate.index.nearest import Vectors
from mistudio.errors import InputError

ANGLES = (20, 45, 70)  # degrees between a row and the query that is made of it
_COMBINED = 32  # rows of a combination: about as many as are active on a token


class Rows:
    """Rows of a matrix that are drawn at random, each made one long; rows of zeros are left out."""

    def __init__(self, matrix_FD: Vectors) -> None:
        self._matrix_FD = matrix_FD

    def draw(self, count: int, generator: np.random.Generator) -> Vectors:
        """So many, or fewer where some are zero [at most count, D]."""
        row_Q = generator.integers(0, len(self._matrix_FD), count)
        return unit(self._matrix_FD[row_Q])


def sample_queries(
    decoder_FD: Vectors, encoder_FD: Vectors | None, count: int, seed: int
) -> Mapping[str, NDArray[np.float32]]:
    """Queries of each kind, one long [Q, D]; the hardest kind first.

    * ``random``: no structure at all;
    * ``difference``: of two rows, as between two features;
    * ``combination``: of many rows with positive weights, as an activation is;
    * ``encoder``: rows of the encoder, where it is as wide as the decoder;
    * ``row_20``, ``row_45``, ``row_70``: rows with noise, so many degrees away from the row.

    Raises:
        InputError: all rows of the decoder are zero.
    """
    decoder, width = Rows(decoder_FD), decoder_FD.shape[1]
    made: dict[str, Callable[[np.random.Generator], Vectors]] = {
        "random": lambda draw: unit(draw.standard_normal((count, width))),
        "difference": lambda draw: _difference(decoder, count, draw),
        "combination": lambda draw: _combination(decoder, count, draw),
    }
    if encoder_FD is not None and encoder_FD.shape[1] == width:
        made["encoder"] = lambda draw: Rows(encoder_FD).draw(count, draw)
    for angle in ANGLES:
        made[f"row_{angle}"] = lambda draw, angle=angle: _noisy(decoder, count, angle, draw)  # type: ignore[misc]
    found = {kind: make(np.random.default_rng([seed, place])) for place, (kind, make) in enumerate(made.items())}
    if not len(found["row_20"]):
        message = "All decoder rows that were drawn are zero: there are no directions to search. Train the autoencoder."
        raise InputError(message)
    return {kind: vector_QD for kind, vector_QD in found.items() if len(vector_QD)}


def unit(vector_QD: NDArray[np.floating]) -> Vectors:
    """The vectors, each made one long, without those that are zero."""
    wide_QD = vector_QD.astype(np.float64)
    length_Q = np.linalg.norm(wide_QD, axis=1)
    is_kept_Q = np.isfinite(length_Q) & (length_Q > 0)
    unit_QD: Vectors = (wide_QD[is_kept_Q] / length_Q[is_kept_Q, None]).astype(np.float32)
    return unit_QD


def _difference(decoder: Rows, count: int, draw: np.random.Generator) -> Vectors:
    first_QD, second_QD = decoder.draw(count, draw), decoder.draw(count, draw)
    pairs = min(len(first_QD), len(second_QD))
    return unit(first_QD[:pairs] - second_QD[:pairs])


def _combination(decoder: Rows, count: int, draw: np.random.Generator) -> Vectors:
    rows = [decoder.draw(_COMBINED, draw) for _ in range(count)]
    return unit(np.stack([draw.exponential(size=len(each)) @ each for each in rows]))


def _noisy(decoder: Rows, count: int, angle: int, draw: np.random.Generator) -> Vectors:
    """Rows, each turned by an angle in a direction that is drawn at random."""
    row_QD = decoder.draw(count, draw).astype(np.float64)
    noise_QD = draw.standard_normal(row_QD.shape)
    noise_QD -= (noise_QD * row_QD).sum(axis=1, keepdims=True) * row_QD
    turned_QD = noise_QD / np.linalg.norm(noise_QD, axis=1, keepdims=True)
    return unit(np.cos(np.deg2rad(angle)) * row_QD + np.sin(np.deg2rad(angle)) * turned_QD)
