"""What columns read of a new version's activations: their vectors and offsets behind a map.

Shape legend: D width of a hook point.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mistudio.directions.artifact import find_direction
from mistudio.instrument.served import Served
from mistudio.monitor.revalidate.realign import Realigned
from mistudio.monitor.watch.columns import Column


def column_vectors(
    served: Served, columns: Sequence[Column], maps: Mapping[str, Realigned]
) -> dict[str, NDArray[np.float32]]:
    """By ``name.vector`` [D] and ``name.offset`` [1] of each column: ``vector · x + offset`` is what it reads.

    Of a feature that is its pre-activation, of a direction its value. With ``x_old = x_new @ M + c``, a column that
    read ``v · x_old + b`` reads ``(M v) · x_new + (b + v · c)``.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for column in columns:
        vector_D, offset = _read_by(served, column)
        each = maps[column.hook]
        found[f"{column.name}.vector"] = (each.weight_DD @ vector_D).astype(np.float32)
        found[f"{column.name}.offset"] = np.array([offset + vector_D @ each.shift_D], dtype=np.float32)
    return found


def _read_by(served: Served, column: Column) -> tuple[NDArray[np.float64], float]:
    if column.watched.feature is None:
        vector_D = find_direction(served.store, str(column.watched.direction)).vector_D.double().numpy()
        return vector_D / np.linalg.norm(vector_D), -column.watched.offset
    sae = next(placed.sae for placed in served.session.autoencoders if placed.uri == column.uri)
    row = sae.W_enc[column.watched.feature].detach().double().cpu().numpy()
    return row, float(sae.b_enc[column.watched.feature])
